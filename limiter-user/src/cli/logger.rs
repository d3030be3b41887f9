//! What the program says of itself, as opposed to security events: warnings and errors on standard
//! error, a line each, dropped where its reader stalls. The kernel program's diagnostics come here too, where they are asked for.

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::{events::escape, proxy::diagnostics::Lines};

/// Longest line; text of a peer may be in it.
const MAX_LINE: usize = 1_024;

struct Logger;

static LOGGER: Logger = Logger;

static LINES: Lines = Lines::new();

impl Log for Logger {
    /// Of libraries only what goes wrong; notes are ours and the kernel program's.
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Warn || metadata.target().starts_with("limiter")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let level = match record.level() {
            Level::Error => "error",
            Level::Warn => "warning",
            Level::Info | Level::Debug | Level::Trace => "note",
        };
        let message = record.args().to_string();
        LINES.say(&format!("limiter: {level}: {}", escape::line(&message, MAX_LINE)));
    }

    fn flush(&self) {}
}

/// Logs from `level` up. Called once, at the start of the process.
pub(super) fn start(level: LevelFilter) {
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(level);
    }
}
