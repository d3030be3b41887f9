//! What this kernel can do, found out by loading tiny programs and making tiny maps, and in the end
//! the program itself. Nothing is pinned or attached: all of it is gone when the answer is there.

use aya::{
    Btf,
    maps::MapType,
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported},
};

use aya_obj::btf::BtfKind;

use super::{KernelError, load};

/// One thing that a kernel has or has not.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Probed {
    /// What was looked for.
    pub name: &'static str,
    /// What does not work without it.
    pub serves: &'static str,
    /// Without it there is no kernel half at all.
    pub needed: bool,
    /// Whether it is there, or why that cannot be told.
    pub found: Result<bool, String>,
}

/// Looks for everything that some feature needs. Needs the capabilities of loading.
pub fn probe() -> Vec<Probed> {
    let mut all = Vec::new();
    all.push(Probed {
        name: "XDP programs",
        serves: "packet half",
        needed: true,
        found: is_program_supported(ProgramType::Xdp).map_err(|error| whole(&error)),
    });
    all.push(Probed {
        name: "tracepoint sock:inet_sock_set_state with types",
        serves: "limit of concurrent connections",
        needed: false,
        found: has_tracepoint("inet_sock_set_state"),
    });
    for (kind, name, serves) in [
        (MapType::Hash, "hash maps", "ban"),
        (MapType::Array, "array maps", "source table"),
        (MapType::PerCpuArray, "per-CPU array maps", "counter"),
        (MapType::LpmTrie, "prefix tries", "list of networks"),
        (MapType::RingBuf, "ring buffers", "event about dropped packets"),
    ] {
        let found = is_map_supported(kind).map_err(|error| whole(&error));
        all.push(Probed { name, serves, needed: true, found });
    }
    for (helper, name, serves, needed) in [
        (
            BpfHelper::BPF_FUNC_xdp_get_buff_len,
            "bpf_xdp_get_buff_len",
            "way to read packets of several buffers (kernel 5.18)",
            true,
        ),
        (
            BpfHelper::BPF_FUNC_xdp_load_bytes,
            "bpf_xdp_load_bytes",
            "way to read packets of several buffers (kernel 5.18)",
            true,
        ),
        (BpfHelper::BPF_FUNC_jiffies64, "bpf_jiffies64", "limit", true),
        (BpfHelper::BPF_FUNC_skc_lookup_tcp, "bpf_skc_lookup_tcp", "exemption of replies", true),
        (BpfHelper::BPF_FUNC_sk_lookup_udp, "bpf_sk_lookup_udp", "exemption of replies", true),
        (
            BpfHelper::BPF_FUNC_tcp_gen_syncookie,
            "bpf_tcp_gen_syncookie",
            "SYN cookie in XDP",
            false,
        ),
    ] {
        let found = is_helper_supported(ProgramType::Xdp, helper).map_err(|error| whole(&error));
        all.push(Probed { name, serves, needed, found });
    }
    all
}

/// Whether programs can be put on a tracepoint with the types of its arguments (kernel 5.5).
fn has_tracepoint(name: &str) -> Result<bool, String> {
    let types = Btf::from_sys_fs().map_err(|error| whole(&error))?;
    let wanted = format!("btf_trace_{name}");
    Ok(types.id_by_type_name_kind(&wanted, BtfKind::Typedef).is_ok())
}

fn whole(error: &dyn std::error::Error) -> String {
    KernelError::system("cannot be told", error).to_string()
}

/// Loads the program of this version as a start would; how many instructions were verified.
pub fn try_program() -> Result<u32, KernelError> {
    load::try_out()
}

/// Capabilities that the kernel half needs and this process lacks, by name.
pub fn missing_capabilities() -> Vec<String> {
    load::missing_capabilities()
}
