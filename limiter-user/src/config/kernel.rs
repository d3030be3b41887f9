//! `[kernel]`: written -> checked.

use ipnet::IpNet;

use super::{
    Scope,
    document::{
        Number, Text,
        kernel::{KernelDocument, KernelLimitsDocument},
        shapes::PortDocument,
    },
    error::{Place, Report},
    limits::check_burst,
    preset::Preset,
    values,
};
use crate::policy::{
    KernelPolicy, RateLimit,
    kernel::{
        Attach, DefaultVerdict, FailsafePort, Fragments, InterfaceSelection, KernelLimits,
        PassOrDrop, SynCookies,
    },
};

/// The kernel's bucket arithmetic holds no larger burst.
const MAX_BURST: i64 = 10_000_000;

/// `None`: HTTP only.
pub(super) fn check(
    written: Option<&KernelDocument>,
    scope: &Scope<'_>,
    report: &mut Report,
) -> Option<KernelPolicy> {
    let sources = scope.sources;
    let override_ = sources.list(&sources.interfaces, "--interface", "LIMITER_INTERFACE");
    let enabled =
        written.is_some_and(|kernel| kernel.enabled.as_ref().is_none_or(|flag| *flag.get_ref()));
    if !enabled && override_.is_none() {
        return None;
    }
    let fallback = KernelDocument::default();
    let written = written.unwrap_or(&fallback);
    refuse_later(written, report);
    let policy = KernelPolicy {
        interfaces: interfaces(written, override_, report),
        attach: report.choice(
            written.attach.as_ref(),
            &[("auto", Attach::Auto), ("native", Attach::Native), ("generic", Attach::Generic)],
            &[],
        ),
        required: written.required.as_ref().is_none_or(|flag| *flag.get_ref()),
        mode: report.mode(written.mode.as_ref()),
        default: report.choice(
            written.default.as_ref(),
            &[("allow", DefaultVerdict::Allow), ("deny", DefaultVerdict::Deny)],
            &[],
        ),
        trusted: trusted(written, report),
        allow: written
            .allow
            .as_ref()
            .map(|list| report.values(list.get_ref(), values::network))
            .unwrap_or_default(),
        deny: report.values(&written.deny, values::network),
        failsafe_ports: failsafe_ports(written, report),
        ipv4_prefix: report.number_or(written.ipv4_prefix.as_ref(), 1..=32, 32),
        ipv6_prefix: report.number_or(written.ipv6_prefix.as_ref(), 1..=64, 64),
        max_sources: report.number_or(written.max_sources.as_ref(), 1..=16_777_216, 262_144),
        max_bans: report.number_or(written.max_bans.as_ref(), 1..=16_777_216, 65_536),
        table_full: report.choice(
            written.table_full.as_ref(),
            &[("pass", PassOrDrop::Pass), ("drop", PassOrDrop::Drop)],
            &[],
        ),
        syn_cookies: report.choice(
            written.syn_cookies.as_ref(),
            &[("auto", SynCookies::Auto), ("always", SynCookies::Always), ("off", SynCookies::Off)],
            &[],
        ),
        malformed: report.choice(
            written.malformed.as_ref(),
            &[("drop", PassOrDrop::Drop), ("pass", PassOrDrop::Pass)],
            &[],
        ),
        fragments: report.choice(
            written.fragments.as_ref(),
            &[("limit", Fragments::Limit), ("drop", Fragments::Drop), ("pass", Fragments::Pass)],
            &[],
        ),
        limits: limits(&written.limits, scope.preset, report),
    };
    warn(written, &policy, report);
    Some(policy)
}

fn refuse_later(written: &KernelDocument, report: &mut Report) {
    report.only_false(written.forwarded.as_ref());
    report.later(&[&written.max_prefix_bans], "bans of single sources, `max_bans`");
    let supported = "limits per source over all ports, `[kernel.limits]`";
    report.later(&[&written.total_limits, &written.service], supported);
    let limits = &written.limits;
    report.later(
        &[
            &limits.bytes,
            &limits.bytes_burst,
            &limits.concurrent_connections,
            &limits.udp_packets,
            &limits.udp_packets_burst,
            &limits.icmp_packets,
            &limits.icmp_packets_burst,
        ],
        "packets, packets_burst, new_connections, new_connections_burst",
    );
}

fn interfaces(
    written: &KernelDocument,
    override_: Option<(Place, Vec<String>)>,
    report: &mut Report,
) -> Vec<InterfaceSelection> {
    let named: Vec<(Place, String)> = match (override_, &written.interfaces) {
        (Some((place, names)), _) => names.into_iter().map(|name| (place.clone(), name)).collect(),
        (None, Some(list)) => {
            if list.get_ref().is_empty() {
                report.refuse(list.span(), "no interface is named; leave it out for [\"auto\"]");
            }
            list.get_ref().iter().map(|name| (name.span().into(), name.get_ref().clone())).collect()
        }
        (None, None) => return vec![InterfaceSelection::Auto],
    };
    let mut selections = Vec::new();
    for (place, name) in named {
        let Some(selection) = report.parsed(place.clone(), &name, interface) else {
            continue;
        };
        if selections.contains(&selection) {
            report.refuse(place, format!("{name:?} is named twice"));
        } else {
            selections.push(selection);
        }
    }
    selections
}

/// `dev_valid_name` of the kernel: 1 to 15 bytes, no slash, colon or blank.
fn interface(name: &str) -> Result<InterfaceSelection, String> {
    if name == "auto" {
        return Ok(InterfaceSelection::Auto);
    }
    let bad = |byte: u8| !byte.is_ascii_graphic() || matches!(byte, b'/' | b':');
    if name.is_empty() || name.len() > 15 || name == "." || name == ".." || name.bytes().any(bad) {
        return Err("is not the name of an interface, nor \"auto\"".to_owned());
    }
    Ok(InterfaceSelection::Named(name.to_owned()))
}

fn trusted(written: &KernelDocument, report: &mut Report) -> Vec<IpNet> {
    let mut networks = Vec::new();
    for entry in &written.trusted {
        let document = entry.get_ref();
        report.later(&[&document.table.interface], "a network, whatever the interface");
        let network = match (&document.bare, &document.table.cidr) {
            (Some(text), _) => report.parsed(entry.span(), text, values::network),
            (None, Some(cidr)) => report.value(cidr, values::network),
            (None, None) => {
                report.refuse(entry.span(), "`cidr` is missing");
                None
            }
        };
        if let Some(network) = network {
            if network.prefix_len() == 0 {
                let sentence = format!("{network} trusts every address: nothing is ever dropped");
                report.risk(entry.span(), sentence);
            }
            networks.push(network);
        }
    }
    networks
}

fn failsafe_ports(written: &KernelDocument, report: &mut Report) -> Vec<FailsafePort> {
    let Some(list) = &written.failsafe_ports else {
        return vec![FailsafePort::Auto];
    };
    if list.get_ref().is_empty() {
        report.risk(list.span(), "a wrong ban or deny list can lock you out, of SSH too");
    }
    let expected = "expected \"auto\", a port such as 22, or \"tcp/22\"";
    let mut ports = Vec::new();
    for entry in list.get_ref() {
        let number = match entry.get_ref() {
            PortDocument::Number(number) => u16::try_from(*number).ok(),
            PortDocument::Text(text) if text == "auto" => {
                ports.push(FailsafePort::Auto);
                continue;
            }
            PortDocument::Text(text) if text.starts_with("udp/") => {
                report.unsupported(entry.span(), &format!("{text:?}"), "TCP ports");
                continue;
            }
            PortDocument::Text(text) => text
                .strip_prefix("tcp/")
                .filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|port| port.parse().ok()),
        };
        match number.filter(|port| *port > 0) {
            Some(port) => ports.push(FailsafePort::Tcp(port)),
            None => report.refuse(entry.span(), format!("not a port; {expected}")),
        }
    }
    ports
}

fn limits(
    written: &KernelLimitsDocument,
    preset: Option<Preset>,
    report: &mut Report,
) -> KernelLimits {
    let filled = preset.map(|_| Preset::kernel_limits()).unwrap_or_default();
    let (packets, connections) = (&written.packets, &written.new_connections);
    KernelLimits {
        packets: limit(packets.as_ref(), written.packets_burst.as_ref(), filled.packets, report),
        new_connections: limit(
            connections.as_ref(),
            written.new_connections_burst.as_ref(),
            filled.new_connections,
            report,
        ),
    }
}

fn limit(
    rate: Option<&Text>,
    burst: Option<&Number>,
    filled: Option<RateLimit>,
    report: &mut Report,
) -> Option<RateLimit> {
    let Some(text) = rate else {
        let mut filled = filled;
        match (&mut filled, burst) {
            (Some(limit), Some(_)) => {
                limit.burst = report.number_or(burst, 1..=MAX_BURST, limit.burst);
            }
            (None, Some(burst)) => report.refuse(burst.span(), "a burst needs its rate beside it"),
            (_, None) => {}
        }
        return filled;
    };
    let rate = report.value(text, values::rate)?;
    if rate.count > MAX_BURST.unsigned_abs() && burst.is_none() {
        report.refuse(text.span(), format!("needs a burst of at most {MAX_BURST} beside it"));
    }
    let burst_packets = report.number_or(burst, 1..=MAX_BURST, rate.count);
    let place = burst.map_or_else(|| text.span(), Number::span);
    check_burst(rate, burst_packets, place, report);
    Some(RateLimit { rate, burst: burst_packets })
}

fn warn(written: &KernelDocument, policy: &KernelPolicy, report: &mut Report) {
    if policy.default == DefaultVerdict::Deny
        && policy.allow.is_empty()
        && policy.trusted.is_empty()
        && let Some(place) = &written.default
    {
        report.risk(place.span(), "no network is allowed or trusted: only failsafe ports answer");
    }
    if policy.default == DefaultVerdict::Allow
        && let Some(list) = written.allow.as_ref().filter(|list| !list.get_ref().is_empty())
    {
        report.risk(list.span(), "has no effect while `default` is \"allow\"");
    }
    let loopback = ["127.0.0.1", "::1"].map(values::network);
    for text in &written.deny {
        let Ok(network) = values::network(text.get_ref()) else {
            continue;
        };
        if network.prefix_len() == 0 {
            report.risk(text.span(), format!("{network} is every address of its family"));
        } else if loopback.iter().flatten().any(|own| network.contains(own)) {
            report.risk(text.span(), format!("{network} covers this host's loopback addresses"));
        }
    }
    if !policy.required
        && let Some(flag) = &written.required
    {
        report.risk(flag.span(), "where XDP cannot attach, packets go unfiltered");
    }
}
