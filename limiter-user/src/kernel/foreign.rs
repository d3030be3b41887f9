//! Names of the XDP programs of this host, to say whose program stands in the way.
//!
//! The kernel tells names to `CAP_SYS_ADMIN` only, which the agent gives up: what is loaded is noted
//! before, and asked again where that is still allowed.

use std::collections::BTreeMap;

use aya::programs::loaded_programs;
use aya_obj::generated::bpf_prog_type;

/// How many programs are looked at: a host with more has other troubles.
const MAX_PROGRAMS: usize = 4_096;

/// XDP programs by id.
#[derive(Clone, Debug, Default)]
pub struct ProgramNames(BTreeMap<u32, String>);

impl ProgramNames {
    /// What is loaded now; empty where the kernel does not tell.
    pub fn look() -> Self {
        let programs = loaded_programs().take(MAX_PROGRAMS).map_while(Result::ok);
        let xdp =
            programs.filter(|program| program.program_type() == bpf_prog_type::BPF_PROG_TYPE_XDP);
        let name = |bytes: &[u8]| String::from_utf8_lossy(bytes).escape_debug().to_string();
        Self(xdp.map(|program| (program.id(), name(program.name()))).collect())
    }

    /// `"xdp_dispatcher"`, or that it is not known.
    pub fn describe(&self, id: u32) -> String {
        let known = self.0.get(&id).cloned();
        match known.or_else(|| Self::look().0.remove(&id)) {
            Some(name) if !name.is_empty() => format!("{name:?}"),
            _ => "of unknown name".to_owned(),
        }
    }
}
