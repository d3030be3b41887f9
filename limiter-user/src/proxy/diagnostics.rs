//! What the proxy process itself has to say, on standard error, which it shares with the agent.
//!
//! Only of its own affairs; never text of a peer. What happens to requests goes over the link.

use std::io::Write;

use log::{LevelFilter, Log, Metadata, Record};

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        // Libraries log what peers sent.
        if record.target().starts_with("limiter") {
            let line = format!("limiter proxy: {}: {}\n", record.level(), record.args());
            // There is nowhere else to say it.
            drop(std::io::stderr().write_all(line.as_bytes()));
        }
    }

    fn flush(&self) {}
}

/// Writes warnings and errors, unless the process already has a logger.
pub(super) fn start() {
    if log::set_logger(&Stderr).is_ok() {
        log::set_max_level(LevelFilter::Warn);
    }
}
