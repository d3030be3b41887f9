//! What this kernel can do, found out by loading tiny programs and making tiny maps, and in the end
//! the program itself. Nothing is pinned or attached: all of it is gone when the answer is there.

use aya::{
    maps::MapType,
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported},
};

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
    for (kind, name, serves, needed) in [
        (ProgramType::Xdp, "XDP programs", "the packet half", true),
        (ProgramType::Tracing, "BTF tracepoints", "limits of concurrent connections", false),
    ] {
        let found = is_program_supported(kind).map_err(|error| error.to_string());
        all.push(Probed { name, serves, needed, found });
    }
    for (kind, name, serves) in [
        (MapType::Hash, "hash maps", "bans"),
        (MapType::Array, "array maps", "settings and sources"),
        (MapType::PerCpuArray, "per-CPU array maps", "counters"),
        (MapType::LpmTrie, "prefix tries", "lists and bans of networks"),
        (MapType::RingBuf, "ring buffers", "events about dropped packets"),
    ] {
        let found = is_map_supported(kind).map_err(|error| error.to_string());
        all.push(Probed { name, serves, needed: true, found });
    }
    for (helper, name, serves, needed) in [
        (
            BpfHelper::BPF_FUNC_xdp_get_buff_len,
            "bpf_xdp_get_buff_len",
            "packets of several buffers (kernel 5.18)",
            true,
        ),
        (
            BpfHelper::BPF_FUNC_xdp_load_bytes,
            "bpf_xdp_load_bytes",
            "packets of several buffers (kernel 5.18)",
            true,
        ),
        (BpfHelper::BPF_FUNC_jiffies64, "bpf_jiffies64", "limits", true),
        (BpfHelper::BPF_FUNC_skc_lookup_tcp, "bpf_skc_lookup_tcp", "replies to this host", true),
        (BpfHelper::BPF_FUNC_sk_lookup_udp, "bpf_sk_lookup_udp", "replies to this host", true),
        (
            BpfHelper::BPF_FUNC_tcp_gen_syncookie,
            "bpf_tcp_gen_syncookie",
            "SYN cookies in XDP",
            false,
        ),
    ] {
        let found =
            is_helper_supported(ProgramType::Xdp, helper).map_err(|error| error.to_string());
        all.push(Probed { name, serves, needed, found });
    }
    all
}

/// Loads the program of this version as a start would; how many instructions were verified.
pub fn try_program() -> Result<u32, KernelError> {
    load::try_out()
}

/// Capabilities that the kernel half needs and this process lacks, by name.
pub fn missing_capabilities() -> Vec<String> {
    load::missing_capabilities()
}
