//! The packet half in words: interfaces, lists, limits, services.

use std::{
    fmt::Display,
    io::{self, Write},
};

use super::{join, mode_words, rate_words, word};
use crate::policy::{
    ByteRateLimit, KernelPolicy, RateLimit,
    kernel::{FailsafePort, InterfaceSelection, Limits, Service, SynCookies},
};

/// How much of a list is shown.
const SHOWN: usize = 20;

pub(super) fn write(kernel: &KernelPolicy, out: &mut dyn Write) -> io::Result<()> {
    let interfaces = kernel.interfaces.iter().map(|interface| match interface {
        InterfaceSelection::Auto => "auto (those with a default route)".to_owned(),
        InterfaceSelection::Named(name) => name.clone(),
    });
    let ports = kernel.failsafe_ports.iter().map(|port| match port {
        FailsafePort::Auto => "auto (sshd's)".to_owned(),
        FailsafePort::Tcp(port) => format!("tcp/{port}"),
    });
    let trusted = kernel.trusted.iter().map(|trusted| match &trusted.interface {
        Some(interface) => format!("{} on {interface}", trusted.network),
        None => trusted.network.to_string(),
    });
    writeln!(out, "kernel{}", mode_words(kernel.mode))?;
    writeln!(out, "  interfaces       {} (attach {})", join(interfaces), word(&kernel.attach))?;
    writeln!(out, "  default          {}", word(&kernel.default))?;
    writeln!(out, "  trusted          {}", some(trusted))?;
    writeln!(out, "  allow            {}", some(&kernel.allow))?;
    writeln!(out, "  deny             {}", some(&kernel.deny))?;
    writeln!(out, "  failsafe ports   {}", join(ports))?;
    write_limits("per source", "  ", &kernel.limits, out)?;
    write_limits("all together", "  ", &kernel.total_limits, out)?;
    for service in &kernel.services {
        write_service(service, out)?;
    }
    let cookies = match kernel.syn_cookies {
        SynCookies::Auto => "while a listener is flooded",
        SynCookies::Always => "always",
        SynCookies::Off => "off",
    };
    let forwarded = if kernel.forwarded { "limited too" } else { "untouched" };
    writeln!(out, "  syn cookies {cookies}; forwarded traffic {forwarded}")?;
    writeln!(
        out,
        "  malformed {}, fragments {}, table full {}",
        word(&kernel.malformed),
        word(&kernel.fragments),
        word(&kernel.table_full)
    )?;
    writeln!(
        out,
        "  sources by /{} and /{}, at least {}; bans up to {}, and {} of networks",
        kernel.ipv4_prefix,
        kernel.ipv6_prefix,
        kernel.max_sources,
        kernel.max_bans,
        kernel.max_prefix_bans
    )
}

fn write_service(service: &Service, out: &mut dyn Write) -> io::Result<()> {
    let (name, ports, mode) = (&service.name, join(&service.ports), mode_words(service.mode));
    writeln!(out, "  service          {name} = {ports}{mode}")?;
    match &service.allow {
        Some(allow) if allow.is_empty() => writeln!(out, "    allow          nobody")?,
        Some(allow) => writeln!(out, "    allow          {}", some(allow))?,
        None => {}
    }
    write_limits("per source", "    ", &service.limits, out)?;
    write_limits("all together", "    ", &service.total_limits, out)
}

fn write_limits(title: &str, indent: &str, limits: &Limits, out: &mut dyn Write) -> io::Result<()> {
    let width = 19 - indent.len();
    if !limits.any() {
        return writeln!(out, "{indent}{title:<width$}unlimited");
    }
    let rates = [
        ("packets", limits.packets),
        ("new connections", limits.new_connections),
        ("UDP packets", limits.udp_packets),
        ("ICMP packets", limits.icmp_packets),
    ];
    let mut words: Vec<String> = rates
        .into_iter()
        .filter_map(|(what, limit)| Some(format!("{what} {}", limit_words(limit?))))
        .collect();
    words.extend(limits.bytes.map(|limit| format!("bytes {}", byte_words(limit))));
    let open = limits.concurrent_connections;
    words.extend(open.map(|count| format!("concurrent connections {count}")));
    for (index, line) in words.iter().enumerate() {
        let (title, mode) = if index == 0 { (title, mode_words(limits.mode)) } else { ("", "") };
        writeln!(out, "{indent}{title:<width$}{line}{mode}")?;
    }
    Ok(())
}

fn limit_words(limit: RateLimit) -> String {
    format!("{} burst {}", rate_words(limit.rate), limit.burst)
}

fn byte_words(limit: ByteRateLimit) -> String {
    let rate = rate_words(limit.rate);
    let period = rate.split('/').next_back().unwrap_or_default();
    format!("{}/{period} burst {}", size_words(limit.rate.count), size_words(limit.burst_bytes))
}

/// The largest unit that leaves nothing over.
fn size_words(bytes: u64) -> String {
    let units = [
        ("GB", 1_000_000_000),
        ("GiB", 1 << 30),
        ("MB", 1_000_000),
        ("MiB", 1 << 20),
        ("KB", 1_000),
        ("KiB", 1 << 10),
    ];
    match units.into_iter().find(|(_, size)| bytes >= *size && bytes.is_multiple_of(*size)) {
        Some((unit, size)) => format!("{}{unit}", bytes / size),
        None => format!("{bytes}B"),
    }
}

/// The beginning of a list that may be very long.
fn some(items: impl IntoIterator<Item = impl Display>) -> String {
    let mut items = items.into_iter();
    let shown = join(items.by_ref().take(SHOWN));
    match items.count() {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_long_lists() {
        let sizes = [100_000_000, 65_536, 1_500, 12_500_000_000].map(size_words);
        assert_eq!(sizes, ["100MB", "64KiB", "1500B", "12500MB"]);
        assert_eq!(some(0..2), "0, 1");
        assert!(some(0..25).ends_with(", 19 and 5 more"), "{}", some(0..25));
        assert_eq!(some([0; 0]), "none");
    }
}
