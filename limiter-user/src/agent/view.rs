//! What the agent knows, as the documents of the control socket show it.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use ipnet::IpNet;

use super::{Inner, book, rules, shared_bans::SharedCounts};
use crate::{
    admin::view::{
        BanView, ConnectionsView, DurationView, Failure, InterfaceView, MapFillView, OutcomeView,
        PacketCountView, PacketProtocol, PacketQuery, ServerView, SourceView, StatusView,
        StoreView, WhyView,
    },
    clock,
    kernel::{Kernel, KernelError, Probe, SourceRecord, VerdictCount},
    link::{
        DURATION_BOUNDS_NS, DurationCount, OutcomeCount, ProxyCounters, ServerCount, SignedCount,
        StoreCounts, room,
    },
    policy::{BanScope, HttpPolicy, Mode, Policy, store::StorePolicy},
    refusal::Refusal,
};

pub(super) fn kernel(inner: &Inner) -> Result<&Kernel, Failure> {
    inner.kernel.as_ref().ok_or_else(|| Failure {
        status: 404,
        message: "the kernel half is off (no [kernel] section, or degraded): no sources are \
                  tracked"
            .to_owned(),
    })
}

pub(super) fn failure(error: &KernelError) -> Failure {
    match error {
        KernelError::Full(text) => Failure::full(text.clone()),
        KernelError::Policy(text) | KernelError::Host(text) => Failure::invalid(text.clone()),
        KernelError::Pins(text) | KernelError::System(text) => Failure::internal(text.clone()),
    }
}

/// Refuses a policy that the proxy could not be told.
pub(super) fn fits(policy: &Policy) -> Result<(), Failure> {
    policy.http.as_ref().map_or(Ok(()), room::check).map_err(Failure::invalid)
}

/// TLS handshakes by what came of them; nothing where there was none.
pub(super) fn handshakes(counters: &ProxyCounters) -> BTreeMap<String, u64> {
    let full = counters.tls_handshakes.saturating_sub(counters.tls_resumed);
    [("full", full), ("resumed", counters.tls_resumed), ("failed", counters.tls_failed)]
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(result, count)| (result.to_owned(), count))
        .collect()
}

/// Room for signed messages; nothing where no scheme signs.
pub(super) fn signed_messages(signed: &SignedCount) -> BTreeMap<String, u64> {
    let rows = [("remembered", signed.remembered), ("capacity", signed.capacity)];
    let rows = rows.into_iter().filter(|_| signed.capacity > 0);
    rows.map(|(label, count)| (label.to_owned(), count)).collect()
}

/// Signed messages that were refused, by why; nothing where no scheme signs.
pub(super) fn signed_refused(signed: &SignedCount) -> BTreeMap<String, u64> {
    let rows = [
        ("full", signed.full),
        ("repeated", signed.repeated),
        ("under_way", signed.under_way),
        ("unknown", signed.unknown),
    ];
    let rows = rows.into_iter().filter(|_| signed.capacity > 0);
    rows.map(|(label, count)| (label.to_owned(), count)).collect()
}

pub(super) fn by_label(counts: &[u64]) -> BTreeMap<String, u64> {
    Refusal::ALL
        .iter()
        .zip(counts)
        .filter(|(_, count)| **count > 0)
        .map(|(refusal, count)| (refusal.label().to_owned(), *count))
        .collect()
}

/// The store of the policy, with what the proxy counted of it. `is_lost`: the proxy said so.
pub(super) fn store(
    policy: &StorePolicy,
    is_lost: bool,
    counts: Option<&StoreCounts>,
    bans: SharedCounts,
) -> StoreView {
    let known = counts.copied().unwrap_or_default();
    let state = match counts {
        // Said when it happens; counts come later.
        _ if is_lost => "lost",
        None => "unknown",
        Some(StoreCounts { is_usable: false, .. }) => "connecting",
        Some(_) => "up",
    };
    let requests = [
        ("answered", known.asked.saturating_sub(known.failed)),
        ("failed", known.failed),
        ("absent", known.absent),
        ("remembered", known.remembered),
    ];
    StoreView {
        url: policy.to_string(),
        state: state.to_owned(),
        on_failure: policy.on_failure.label().to_owned(),
        requests: requests.map(|(result, count)| (result.to_owned(), count)).into(),
        unreadable: known.unreadable,
        connected: known.connected,
        bans: [
            ("said", bans.said),
            ("followed", bans.followed),
            ("refused", bans.refused),
            ("left_out", bans.left_out),
            ("unreadable", bans.unreadable),
        ]
        .map(|(what, count)| (what.to_owned(), count))
        .into(),
    }
}

/// The servers of the policy, with what the proxy counted of them.
pub(super) fn servers(policy: &HttpPolicy, counts: &[ServerCount]) -> Vec<ServerView> {
    let all = policy.upstreams.iter().flat_map(|upstream| {
        upstream.servers.iter().map(|server| (&upstream.name, server.to_string()))
    });
    all.map(|(upstream, server)| {
        let is_this = |one: &&ServerCount| one.upstream == *upstream && one.server == server;
        let count = counts.iter().find(is_this).cloned().unwrap_or_default();
        let state = match (count.server.is_empty(), count.up, count.breaker_open) {
            (true, ..) => "unknown",
            (_, false, _) => "down",
            (_, _, true) => "open",
            _ => "up",
        };
        ServerView {
            upstream: upstream.clone(),
            state: state.to_owned(),
            server,
            requests: count.requests,
            failures: count.failures,
            retries: count.retries,
            connections: count.connections,
            active: count.active,
        }
    })
    .collect()
}

/// In order, so that two documents can be compared.
pub(super) fn outcomes(counts: &[OutcomeCount]) -> Vec<OutcomeView> {
    let mut views: Vec<OutcomeView> = counts
        .iter()
        .map(|one| OutcomeView {
            route: one.route.clone(),
            code: match one.status {
                0 => "none".to_owned(),
                class @ 1..10 => format!("{class}xx"),
                status => status.to_string(),
            },
            refusal: one.refusal.map_or("", Refusal::label).to_owned(),
            count: one.count,
        })
        .collect();
    views.sort_by(|one, other| {
        (&one.route, &one.code, &one.refusal).cmp(&(&other.route, &other.code, &other.refusal))
    });
    views
}

/// In order, as [`outcomes`].
pub(super) fn durations(counts: &[DurationCount]) -> Vec<DurationView> {
    let bounds = DURATION_BOUNDS_NS.iter().map(|bound_ns| Some(seconds(*bound_ns)));
    let bounds: Vec<Option<f64>> = bounds.chain([None]).collect();
    let mut views: Vec<DurationView> = counts
        .iter()
        .map(|one| DurationView {
            route: one.route.clone(),
            buckets: bounds.iter().copied().zip(one.buckets).collect(),
            sum_seconds: seconds(one.sum_ns),
        })
        .collect();
    views.sort_by(|one, other| one.route.cmp(&other.route));
    views
}

fn seconds(ns: u64) -> f64 {
    Duration::from_nanos(ns).as_secs_f64()
}

pub(super) fn kernel_status(inner: &Inner, view: &mut StatusView) {
    let Some(kernel) = &inner.kernel else {
        view.kernel_mode = String::from("off");
        return;
    };
    let monitors = inner.policy.kernel.as_ref().is_some_and(|policy| policy.mode == Mode::Monitor);
    view.kernel_mode = String::from(if monitors { "monitor" } else { "enforce" });
    view.interfaces = kernel
        .interfaces()
        .into_iter()
        .map(|state| InterfaceView {
            name: state.name,
            index: state.index,
            mode: state.mode.label().to_owned(),
            taken_over: state.taken_over,
            note: state.note.unwrap_or_default(),
        })
        .collect();
    let (counts, lost) = kernel.counts();
    view.packets = packet_views(kernel, &counts);
    let flaws = kernel.flaws().into_iter().filter(|(_, packets)| *packets > 0);
    view.malformed = flaws.map(|(flaw, packets)| (flaw.label().to_owned(), packets)).collect();
    let lost: u64 = lost.iter().map(|count| count.counter.packets).sum();
    view.events_lost.insert("kernel".to_owned(), lost);
    view.connections = Some(connections_view(kernel));
    let slots = kernel.source_capacity();
    let sources = kernel.source_count().try_into().unwrap_or(u64::MAX);
    view.maps.insert("sources".to_owned(), MapFillView { entries: sources, capacity: slots });
    let mut fill = |name: &str, entries: usize, capacity: u64| {
        let entries = entries.try_into().unwrap_or(u64::MAX);
        view.maps.insert(name.to_owned(), MapFillView { entries, capacity });
    };
    for (name, (entries, capacity)) in ["bans", "prefix_bans"].into_iter().zip(kernel.ban_fill()) {
        fill(name, entries, capacity.into());
    }
    let lists = ["list_addresses", "list_networks"].into_iter().zip(kernel.list_fill());
    for (name, (entries, capacity)) in lists {
        fill(name, entries, capacity.try_into().unwrap_or(u64::MAX));
    }
}

/// Counters of the packet path.
pub(super) fn packet_counts(kernel: &Kernel) -> Vec<PacketCountView> {
    packet_views(kernel, &kernel.counts().0)
}

fn packet_views(kernel: &Kernel, counts: &[VerdictCount]) -> Vec<PacketCountView> {
    let view = |count: &VerdictCount| PacketCountView {
        interface: kernel.interface_name(count.interface),
        verdict: count.verdict.action.label().to_owned(),
        reason: count.verdict.reason.label().to_owned(),
        packets: count.counter.packets,
        bytes: count.counter.bytes,
    };
    counts.iter().map(view).collect()
}

/// The source that an address belongs to by the policy in force.
pub(super) fn source_prefix(inner: &Inner, address: IpAddr) -> IpNet {
    let policy = inner.policy.kernel.as_ref();
    let address = address.to_canonical();
    let length = match address {
        IpAddr::V4(_) => policy.map_or(32, |policy| policy.ipv4_prefix),
        IpAddr::V6(_) => policy.map_or(64, |policy| policy.ipv6_prefix),
    };
    IpNet::new(address, length).map_or_else(|_| address.into(), |prefix| prefix.trunc())
}

fn connections_view(kernel: &Kernel) -> ConnectionsView {
    match kernel.connections() {
        Ok(state) => ConnectionsView {
            off: None,
            open: state.open,
            tracked: state.tracked,
            capacity: state.capacity,
            drift_corrected: state.drift_corrected,
            untracked: state.untracked,
            ended_by_bans: state.ended_by_bans,
            bans_skipped: state.bans_skipped,
        },
        Err(why) => ConnectionsView { off: Some(why.to_owned()), ..ConnectionsView::default() },
    }
}

pub(super) fn explain_packets(
    inner: &Inner,
    source: IpAddr,
    packet: Option<PacketQuery>,
    view: &mut WhyView,
) -> Result<(), Failure> {
    let Some(kernel) = &inner.kernel else {
        view.explanation.push("the kernel half is off: its packets are not looked at".to_owned());
        return Ok(());
    };
    let explained = kernel.explain(source, probe(packet), 0).map_err(|error| failure(&error))?;
    view.verdict = String::from(explained.verdict.action.label());
    view.reason = String::from(explained.verdict.reason.label());
    let meaning = explained.verdict.reason.meaning();
    view.explanation.push(format!("its next packet: {} ({meaning})", view.verdict));
    view.explanation.push(rules::of_lists(inner, source, explained.list));
    let asked = inner.policy.kernel.as_ref().zip(packet);
    view.explanation
        .extend(asked.and_then(|(policy, packet)| rules::of_service(policy, source, packet)));
    let open = kernel.connections_of(source);
    if open > 0 {
        view.explanation.push(format!("its source has {open} TCP connections open to this host"));
    }
    view.record = kernel.source(source).map(|record| source_view(inner, kernel, &record));
    Ok(())
}

/// What to send through `decide`; a plain datagram where nothing is asked for.
const fn probe(packet: Option<PacketQuery>) -> Probe {
    match packet {
        Some(PacketQuery { protocol: PacketProtocol::Tcp, port }) => Probe::Tcp(port),
        Some(PacketQuery { protocol: PacketProtocol::Udp, port }) => Probe::Udp(port),
        Some(PacketQuery { protocol: PacketProtocol::Icmp, .. }) => Probe::Icmp,
        None => Probe::Udp(9),
    }
}

pub(super) fn source_view(inner: &Inner, kernel: &Kernel, record: &SourceRecord) -> SourceView {
    let idle_ns = clock::monotonic_ns().saturating_sub(record.seen_ns);
    SourceView {
        source: source_prefix(inner, record.address),
        packets: record.packets,
        bytes: record.bytes,
        connections: record.connections,
        open_connections: kernel.connections_of(record.address),
        dropped: record.dropped,
        list: kernel.list(record.address, 0).label().to_owned(),
        idle_milliseconds: idle_ns / 1_000_000,
    }
}

pub(super) fn ban_view(inner: &Inner, ban: &book::Ban) -> BanView {
    let left_ns = ban.expires_ns.saturating_sub(clock::monotonic_ns());
    let packets = match (ban.scope, &inner.kernel) {
        (BanScope::Kernel, Some(kernel)) => {
            kernel.ban_of(ban.prefix).map_or(0, |entry| entry.packets)
        }
        (BanScope::Kernel, None) | (BanScope::Http, _) => 0,
    };
    BanView {
        prefix: ban.prefix,
        scope: ban.scope,
        seconds_left: left_ns.div_ceil(1_000_000_000),
        reason: ban.reason.clone(),
        origin: ban.origin.clone(),
        packets,
        not_saved: None,
    }
}
