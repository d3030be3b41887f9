//! `[[kernel.service]]`: written -> checked.

use toml::Spanned;

use super::{
    super::{
        document::{
            kernel::{KernelDocument, KernelLimitsDocument, ServiceDocument},
            shapes::PortDocument,
        },
        error::Report,
        values,
    },
    limits,
};
use crate::policy::kernel::{Limits, MAX_SERVICES, PortRange, Protocol, Service};

/// Every service that can be used; no port is in two.
pub(super) fn check(written: &KernelDocument, report: &mut Report) -> Vec<Service> {
    let mut services: Vec<Service> = Vec::new();
    for (index, entry) in written.service.iter().enumerate() {
        if index == MAX_SERVICES {
            let count = written.service.len();
            let message = format!("{count} services are written, at most {MAX_SERVICES} can be");
            report.refuse(entry.span(), message);
        }
        services.extend(service(entry, &services, report));
    }
    services
}

fn service(
    entry: &Spanned<ServiceDocument>,
    others: &[Service],
    report: &mut Report,
) -> Option<Service> {
    let document = entry.get_ref();
    if document.name.is_none() {
        report.refuse_with(entry.span(), "`name` is missing", "e.g. name = \"dns\"");
    }
    let name = document.name.as_ref().and_then(|name| report.value(name, values::name));
    if let (Some(name), Some(written)) = (&name, &document.name)
        && others.iter().any(|other| other.name == *name)
    {
        report.refuse(written.span(), format!("two services are named {name:?}"));
    }
    let ports = ports(entry, name.as_deref().unwrap_or("this service"), others, report);
    let allow = document.allow.as_ref().map(|list| {
        if list.get_ref().is_empty() {
            report.risk(list.span(), "nobody but trusted sources reaches this service");
        }
        report.values(list.get_ref(), values::network).into()
    });
    let mode = report.mode(document.mode.as_ref());
    let limits = limits::check(&document.limits, Limits::default(), mode, report);
    let total_limits = limits::check(&document.total_limits, Limits::default(), mode, report);
    let service = Service { name: name?, ports, allow, mode, limits, total_limits };
    warn(entry, &service, report);
    Some(service)
}

fn ports(
    entry: &Spanned<ServiceDocument>,
    name: &str,
    others: &[Service],
    report: &mut Report,
) -> Vec<PortRange> {
    let example = "e.g. ports = [\"udp/53\", \"tcp/8000-8010\"]";
    let Some(list) = &entry.get_ref().ports else {
        report.refuse_with(entry.span(), "`ports` is missing", example);
        return Vec::new();
    };
    if list.get_ref().is_empty() {
        report.refuse_with(list.span(), "the service has no port", example);
    }
    let mut ports: Vec<PortRange> = Vec::new();
    for port in list.get_ref() {
        let range = match port.get_ref() {
            PortDocument::Text(text) => report.parsed(port.span(), text, values::port_range),
            PortDocument::Number(number) => {
                let message = format!("{number} names no protocol; write \"tcp/{number}\"");
                report.refuse(port.span(), message);
                None
            }
        };
        let Some(range) = range else { continue };
        let own = ports.iter().map(|other| (name, *other));
        let taken = others
            .iter()
            .flat_map(|other| other.ports.iter().map(|port| (other.name.as_str(), *port)));
        let shared = taken.chain(own).find_map(|(owner, other)| {
            let port = range.shared(other)?;
            Some((owner, PortRange { first: port, last: port, ..range }))
        });
        match shared {
            Some((owner, shared)) if owner == name => {
                report.refuse(port.span(), format!("{shared} is named twice by {name:?}"));
            }
            Some((owner, shared)) => {
                report.refuse(port.span(), format!("{shared} is in {owner:?} and in {name:?}"));
            }
            None => ports.push(range),
        }
    }
    ports
}

/// What has no effect.
fn warn(entry: &Spanned<ServiceDocument>, service: &Service, report: &mut Report) {
    let document = entry.get_ref();
    if service.allow.is_none() && !service.limits.any() && !service.total_limits.any() {
        report.risk(entry.span(), "neither restricts nor limits anything");
    }
    let has = |protocol| service.ports.iter().any(|range| range.protocol == protocol);
    let (tcp, udp) = (has(Protocol::Tcp), has(Protocol::Udp));
    for limits in [&document.limits, &document.total_limits] {
        let KernelLimitsDocument { new_connections, concurrent_connections, .. } = limits;
        let of_tcp = [
            new_connections.as_ref().map(Spanned::span),
            concurrent_connections.as_ref().map(Spanned::span),
        ];
        for place in of_tcp.into_iter().flatten().filter(|_| !tcp) {
            report.risk(place, "has no effect: the service has no TCP port");
        }
        if let Some(rate) = limits.udp_packets.as_ref().filter(|_| !udp) {
            report.risk(rate.span(), "has no effect: the service has no UDP port");
        }
        if let Some(rate) = &limits.icmp_packets {
            report.risk(rate.span(), "has no effect: ICMP has no ports");
        }
    }
}
