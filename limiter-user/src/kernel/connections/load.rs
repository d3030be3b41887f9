//! The tracepoint programs into the kernel, and onto their tracepoint by pinned links.

use std::fs;

use aya::{
    Btf, Ebpf,
    programs::{BtfTracePoint, ProgramError, links::FdLink},
};

use crate::kernel::{
    KernelError, btf,
    load::{explain, object, xdp},
    pins::Pins,
    sock_diag::SockDiag,
    sys,
};

/// Words of a record in the table of sockets.
pub(super) const RECORD_WORDS: usize = 3;

/// The program that carries out corrections.
pub(super) const FIX: &str = "connection_fix";

/// The program that counts, and its copy, each with the name of its link's pin.
const PROGRAMS: [(&str, &str); 2] =
    [("connections", "watch-first"), ("connections_too", "watch-second")];

const TRACEPOINT: &str = "inet_sock_set_state";

/// Where the kernel describes its types.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Globals of the program that say where a field lies: structure and field, and whether every
/// kernel has it.
const FIELDS: [(&str, &str, &str, bool); 7] = [
    ("SOCK_NET", "sock_common", "skc_net", true),
    ("SOCK_PROTOCOL", "sock", "sk_protocol", true),
    ("SOCK_FAMILY", "sock_common", "skc_family", true),
    ("SOCK_LOCAL_PORT", "sock_common", "skc_num", true),
    ("SOCK_REMOTE_V4", "sock_common", "skc_daddr", true),
    // Not where IPv6 is not built in.
    ("SOCK_REMOTE_V6", "sock_common", "skc_v6_daddr", false),
    ("NET_COOKIE", "net", "net_cookie", true),
];

/// Loads and attaches; lets go of what an earlier agent attached.
pub(super) fn attach(pins: &Pins, diag: &SockDiag) -> Result<Ebpf, KernelError> {
    let cookie = sys::namespace_cookie(diag.descriptor()).map_err(|error| {
        KernelError::system("telling this network namespace from others (kernel 5.14)", &error)
    })?;
    let mut globals = offsets()?;
    globals.push(("NETNS_COOKIE", cookie.to_ne_bytes().to_vec()));
    let mut ebpf = object(pins, &globals)?;
    let kernel = Btf::from_sys_fs()
        .map_err(|error| KernelError::system("reading the kernel's types", &error))?;
    for (name, pin) in PROGRAMS {
        let program: &mut BtfTracePoint = ebpf
            .program_mut(name)
            .ok_or_else(|| KernelError::System(format!("the object has no program {name}")))?
            .try_into()
            .map_err(|error: ProgramError| KernelError::system(name, &error))?;
        program
            .load(TRACEPOINT, &kernel)
            .map_err(|error| explain(&format!("loading the program {name}"), &error))?;
        attach_one(program, pins, pin)
            .map_err(|error| explain(&format!("attaching the program {name}"), &*error))?;
    }
    xdp(&mut ebpf, FIX)?
        .load()
        .map_err(|error| explain(&format!("loading the program {FIX}"), &error))?;
    Ok(ebpf)
}

/// Such a link's program cannot be swapped: the new link takes the name of the earlier one, which
/// ends with its name. For a moment both are attached.
fn attach_one(
    program: &mut BtfTracePoint,
    pins: &Pins,
    pin: &str,
) -> Result<(), Box<dyn std::error::Error>> {
    let id = program.attach()?;
    let link = FdLink::from(program.take_link(id)?);
    let new = pins.path(&format!("{pin}-new"));
    if new.exists() {
        // Of an agent that died right here.
        fs::remove_file(&new)?;
    }
    drop(link.pin(&new)?);
    fs::rename(&new, pins.path(pin))?;
    Ok(())
}

fn offsets() -> Result<Vec<(&'static str, Vec<u8>)>, KernelError> {
    let unknown = |what: &str| {
        KernelError::Host(format!("this kernel does not describe {what} ({VMLINUX}, kernel 5.12)"))
    };
    let bytes = fs::read(VMLINUX).map_err(|_| unknown("its types"))?;
    let types =
        btf::Btf::parse(&bytes).ok_or_else(|| unknown("its types as this version reads"))?;
    // `struct sock` begins with `struct sock_common`: an offset in one is one in the other.
    FIELDS
        .into_iter()
        .map(|(global, structure, field, everywhere)| {
            let found = types.offset(structure, field);
            if found.is_none() && everywhere {
                return Err(unknown(&format!("{structure}.{field}")));
            }
            Ok((global, found.unwrap_or_default().to_ne_bytes().to_vec()))
        })
        .collect()
}
