//! Measurements of what is shipped, as root: `cargo xtask bench [NAME]...`, all
//! unless named.
//! Prints numbers beside their targets; a missed target is no failure, because a measurement is no
//! test.

mod bed;
mod cases;
mod connections;
mod controls;
mod cookies;
mod latency;
mod limits;
mod packet;
mod proxy;
mod table;

use std::{
    env,
    io::{self, Write as _},
    process::ExitCode,
};

const NAMES: [&str; 7] =
    ["packet", "cookies", "proxy", "controls", "limits", "connections", "latency"];

fn main() -> ExitCode {
    let mut chosen: Vec<String> = env::args().skip(1).collect();
    if chosen.is_empty() {
        chosen.extend(NAMES.map(str::to_owned));
    }
    for name in &chosen {
        let text = match name.as_str() {
            "packet" => packet::measure(),
            "cookies" => cookies::measure(),
            "proxy" => proxy::measure(),
            "controls" => controls::measure(),
            "limits" => limits::measure(),
            "connections" => connections::measure(),
            "latency" => latency::measure(),
            other => {
                eprintln!("bench: no measurement named {other}; there are: {}", NAMES.join(", "));
                return ExitCode::from(2);
            }
        };
        if io::stdout().write_all(text.as_bytes()).is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
