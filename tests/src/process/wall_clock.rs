//! A wall clock of the limiter's own, which a test sets while the program runs.
//!
//! A library in front of the C library adds what a file says. It is named in `/etc/ld.so.preload`
//! of a mount namespace: the proxy is started without any environment of the agent's.

use std::{
    fs,
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    process::Command,
};

use super::Limiter;

/// What `/etc` is made of: accounts, and the library.
const KEPT: [&str; 5] = ["passwd", "group", "nsswitch.conf", "hosts", "resolv.conf"];

/// How far the limiter's wall clock is ahead of this machine's.
#[derive(Debug)]
pub struct WallClock {
    ahead_ns: fs::File,
}

impl WallClock {
    /// Takes over from the next start on: of the agent, its proxy and the command lines.
    pub fn of(limiter: &mut Limiter) -> Self {
        let directory = limiter.scratch.path().display().to_string();
        let file = limiter.scratch.write("clock/ahead", [0; 8]);
        let library = format!("{directory}/clock/ahead.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/data/clock/ahead.c");
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", &library, source]);
        compile.arg(format!("-DAHEAD_FILE=\"{}\"", file.display()));
        assert!(compile.status().expect("cc").success(), "{source} is compiled");
        limiter.scratch.write("clock/etc/ld.so.preload", &library);
        for name in KEPT {
            if let Ok(text) = fs::read(format!("/etc/{name}")) {
                limiter.scratch.write(&format!("clock/etc/{name}"), text);
            }
        }
        let script = format!(
            "#!/bin/sh\nexec unshare --mount --propagation private /bin/sh -c \
             'mount --bind {directory}/clock/etc /etc && exec \"$0\" \"$@\"' {} \"$@\"\n",
            limiter.program().display()
        );
        let script = limiter.scratch.write("clock/limiter", script);
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("a program");
        limiter.set_program(script);
        let ahead_ns = fs::OpenOptions::new().write(true).open(file).expect("the file");
        Self { ahead_ns }
    }

    /// Sets the clock to so many seconds after, or before, this machine's.
    pub fn set(&self, ahead_seconds: i64) {
        let ahead_ns = ahead_seconds * 1_000_000_000;
        self.ahead_ns.write_all_at(&ahead_ns.to_ne_bytes(), 0).expect("the file is written");
    }
}
