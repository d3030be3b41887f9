//! What the program says of itself, as opposed to security events: warnings and errors on standard
//! error, a line each. The kernel program's diagnostics come here too, where they are asked for.

use std::io::Write as _;

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::events::escape;

/// Longest line; text of a peer may be in it.
const MAX_LINE: usize = 1_024;

struct Logger;

static LOGGER: Logger = Logger;

impl Log for Logger {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let level = match record.level() {
            Level::Error => "error",
            Level::Warn => "warning",
            Level::Info | Level::Debug | Level::Trace => "note",
        };
        let message = record.args().to_string();
        // Nobody is left to be told where standard error is gone.
        drop(writeln!(
            std::io::stderr().lock(),
            "limiter: {level}: {}",
            escape::line(&message, MAX_LINE),
        ));
    }

    fn flush(&self) {}
}

/// Logs from `level` up. Called once, at the start of the process.
pub(super) fn start(level: LevelFilter) {
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(level);
    }
}
