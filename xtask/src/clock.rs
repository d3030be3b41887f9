//! How long a step took: the only place in this crate that reads time.

use std::time::{Duration, Instant};

/// Started when made; read as often as wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopwatch {
    started: Instant,
}

impl Stopwatch {
    #[expect(clippy::disallowed_methods, reason = "this is the clock of xtask")]
    pub(crate) fn start() -> Self {
        Self { started: Instant::now() }
    }

    pub(crate) fn elapsed(self) -> Duration {
        self.started.elapsed()
    }

    /// For people: `0.3 s`, `148 s`.
    pub(crate) fn text(self) -> String {
        let seconds = self.elapsed().as_secs_f64();
        if seconds < 10.0 { format!("{seconds:.1} s") } else { format!("{seconds:.0} s") }
    }
}
