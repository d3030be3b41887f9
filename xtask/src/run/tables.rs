//! What the demonstration comes to: requests, packets, bans, the end of the security log. Reads
//! the limiter's own documents; never counts by itself.
#![expect(clippy::print_stdout, reason = "this is what the demonstration shows")]

use std::fs;

use anyhow::Result;
use serde_json::Value;

use super::stage::Stage;

const LOG_LINES: usize = 12;

pub(super) fn print(stage: &Stage) -> Result<()> {
    let status = stage.ask(&["status"])?;
    println!("Requests");
    row("let through", &status["forwarded"], "sent to the sample API");
    for (label, count) in status["refused"].as_object().into_iter().flatten() {
        if count.as_u64() != Some(0) {
            row("refused", count, label);
        }
    }
    println!("\nPackets, decided by XDP before the network stack");
    for count in status["packets"].as_array().into_iter().flatten() {
        if count["packets"].as_u64() != Some(0) {
            let what = if count["verdict"] == "drop" { "dropped" } else { "let through" };
            row(what, &count["packets"], count["reason"].as_str().unwrap_or_default());
        }
    }
    let bans = stage.ask(&["bans"])?;
    let bans = bans.as_array().map(Vec::as_slice).unwrap_or_default();
    println!("\nBans in force: {}", if bans.is_empty() { "none (any more)" } else { "" });
    for ban in bans {
        let (prefix, reason) = (ban["prefix"].as_str(), ban["reason"].as_str());
        println!("  {}: {}", prefix.unwrap_or_default(), reason.unwrap_or_default());
    }
    println!("\nThe end of the security log");
    let log = fs::read_to_string(stage.files.security_log())?;
    for line in tail(&log, LOG_LINES) {
        println!("  {line}");
    }
    Ok(())
}

fn row(what: &str, count: &Value, why: &str) {
    let count = count.to_string();
    println!("  {what:<12}{count:>8}  {why}");
}

/// The last lines.
pub(super) fn tail(text: &str, count: usize) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(count)..).unwrap_or_default().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_the_end() {
        assert_eq!(tail("a\nb\nc\n", 2), ["b", "c"]);
        assert_eq!(tail("a\n", 2), ["a"]);
        assert!(tail("", 2).is_empty());
    }
}
