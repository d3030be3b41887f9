//! `[kernel]`: written -> checked.

mod limits;
mod risks;
mod service;

use super::{
    Scope,
    document::{Text, kernel::KernelDocument, shapes::PortDocument},
    error::{Place, Report},
    preset::Preset,
    values,
};
use crate::policy::{
    KernelPolicy, Mode,
    kernel::{
        Attach, DefaultVerdict, FailsafePort, Fragments, InterfaceSelection, Limits, PassOrDrop,
        SynCookies, Trusted,
    },
};

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
    let interfaces = interfaces(written, override_, report);
    let filled = scope.preset.map(|_| Preset::kernel_limits()).unwrap_or_default();
    let policy = KernelPolicy {
        trusted: trusted(written, &interfaces, report),
        interfaces,
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
        allow: written
            .allow
            .as_ref()
            .map(|list| report.values(list.get_ref(), values::network).into())
            .unwrap_or_default(),
        deny: report.values(&written.deny, values::network).into(),
        failsafe_ports: failsafe_ports(written, report),
        ipv4_prefix: report.number_or(written.ipv4_prefix.as_ref(), 1..=32, 32),
        ipv6_prefix: report.number_or(written.ipv6_prefix.as_ref(), 1..=64, 64),
        max_sources: report.number_or(written.max_sources.as_ref(), 1..=16_777_216, 262_144),
        max_bans: report.number_or(written.max_bans.as_ref(), 1..=16_777_216, 65_536),
        max_prefix_bans: report.number_or(written.max_prefix_bans.as_ref(), 1..=65_536, 1_024),
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
        forwarded: written.forwarded.as_ref().is_some_and(|flag| *flag.get_ref()),
        limits: limits::check(&written.limits, filled, Mode::Enforce, report),
        total_limits: limits::check(
            &written.total_limits,
            Limits::default(),
            Mode::Enforce,
            report,
        ),
        services: service::check(written, report),
    };
    risks::warn(written, &policy, report);
    Some(policy)
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

fn trusted(
    written: &KernelDocument,
    interfaces: &[InterfaceSelection],
    report: &mut Report,
) -> Vec<Trusted> {
    let mut all: Vec<Trusted> = Vec::new();
    for entry in &written.trusted {
        let document = entry.get_ref();
        let network = match (&document.bare, &document.table.cidr) {
            (Some(text), _) => report.parsed(entry.span(), text, values::network),
            (None, Some(cidr)) => report.value(cidr, values::network),
            (None, None) => {
                report.refuse(entry.span(), "`cidr` is missing");
                None
            }
        };
        let name = document.table.interface.as_ref();
        let interface = name.and_then(|name| trusted_interface(name, interfaces, report));
        let Some(network) = network else { continue };
        if network.prefix_len() == 0 {
            let sentence = format!("{network} trusts every address: nothing is ever dropped");
            report.risk(entry.span(), sentence);
        }
        all.push(Trusted { network, interface });
    }
    all.sort_unstable();
    all.dedup();
    all
}

fn trusted_interface(
    name: &Text,
    interfaces: &[InterfaceSelection],
    report: &mut Report,
) -> Option<String> {
    let selection = report.value(name, |text| match interface(text)? {
        InterfaceSelection::Auto => Err("is not the name of an interface".to_owned()),
        named @ InterfaceSelection::Named(_) => Ok(named),
    })?;
    // Which interfaces "auto" will find cannot be told here.
    if !interfaces.contains(&InterfaceSelection::Auto) && !interfaces.contains(&selection) {
        let sentence = format!(
            "has no effect: packets of {} are not filtered; `interfaces` does not name it",
            name.get_ref()
        );
        report.risk(name.span(), sentence);
    }
    Some(name.get_ref().clone())
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
