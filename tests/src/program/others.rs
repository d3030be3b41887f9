//! Programs of another object, without maps that matter: what the packet program is measured
//! against.

use std::{fmt, fs, path::Path, time::Duration};

use aya::{
    Ebpf, EbpfLoader,
    maps::{MapData, ProgramArray},
    programs::{
        Xdp,
        xdp::{XdpLinkId, XdpMode},
    },
};

use super::{LIMITER, Program, load, map, run, typed, verified_instructions, xdp};
use crate::veth::End;

/// Programs of another object, without maps that matter: what the program is measured against.
pub struct Others {
    ebpf: Ebpf,
    next: ProgramArray<MapData>,
}

impl fmt::Debug for Others {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Others").field("ebpf", &self.ebpf).finish_non_exhaustive()
    }
}

impl Others {
    /// Loads these programs of the object at `path`, whose map `next` is where one of them goes on.
    pub fn load(path: &Path, names: &[&str], next: &str) -> Self {
        let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut ebpf = EbpfLoader::new().load(&bytes).expect("maps are made");
        for name in names {
            load(&mut ebpf, name);
        }
        let next = typed(map(&mut ebpf, next));
        Self { ebpf, next }
    }

    /// Goes on to a program of its own.
    pub fn go_on_to(&mut self, name: &str) {
        let program: &Xdp = self.ebpf.program(name).expect("loaded").try_into().expect("XDP");
        self.next.set(0, program.fd().expect("loaded"), 0).expect("the next program is written");
    }

    /// Goes on to the packet program.
    pub fn go_on_to_limiter(&mut self, program: &Program) {
        let limiter = program.ebpf.program(LIMITER).expect("loaded");
        let limiter: &Xdp = limiter.try_into().expect("XDP");
        self.next.set(0, limiter.fd().expect("loaded"), 0).expect("the next program is written");
    }

    /// Attaches one of them to an interface, natively. It ends with this value.
    pub fn attach(&mut self, name: &str, end: &End) {
        let ebpf = &mut self.ebpf;
        end.namespace.run(|| {
            let link: Result<XdpLinkId, _> = xdp(ebpf, name).attach(&end.name, XdpMode::Driver);
            link.unwrap_or_else(|error| panic!("attach to {}: {error}", end.name));
        });
    }

    /// As [`Program::time`].
    pub fn time(&self, name: &str, frame: &[u8], repeat: u32) -> (u32, Duration) {
        run(&self.ebpf, name, frame, repeat)
    }

    /// As [`Program::verified_instructions`].
    pub fn verified_instructions(&self, name: &str) -> u32 {
        verified_instructions(&self.ebpf, name)
    }
}
