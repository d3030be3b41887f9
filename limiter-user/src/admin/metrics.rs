//! `GET /metrics`: a status in, text for Prometheus out. One table says what there is; the
//! documentation (docs/METRICS.md) is written from it.
//!
//! No label takes a value that a client can choose.

mod durations;
#[cfg(test)]
mod reference;
mod store;
mod upstream;

use std::fmt::{self, Write as _};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::Registry,
};

use super::view::{DurationView, StatusView};

/// Media type of the `OpenMetrics` form.
pub const OPENMETRICS: &str = "application/openmetrics-text";

/// `Content-Type` of [`openmetrics`].
pub const OPENMETRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `Content-Type` of [`prometheus`].
pub const PROMETHEUS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How a value goes on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    /// Only up, or back to 0 where what counts began anew.
    Counter,
    /// Up and down.
    Gauge,
    /// Always 1; the labels say it.
    Info,
}

/// One family.
struct Metric {
    /// Without `limiter_`, and without the `_total` or `_info` that the kind adds.
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    /// A sentence, without its full stop.
    help: &'static str,
    samples: fn(&StatusView) -> Vec<Sample>,
}

/// Values of the labels, in order, and the value.
type Sample = (Vec<String>, u64);

const METRICS: &[Metric] = &[
    Metric {
        name: "packets",
        kind: Kind::Counter,
        labels: &["interface", "verdict", "reason"],
        help: "Packets that the kernel program decided about",
        samples: |status| {
            let packets = status.packets.iter();
            packets.map(|count| (verdict_labels(count), count.packets)).collect()
        },
    },
    Metric {
        name: "bytes",
        kind: Kind::Counter,
        labels: &["interface", "verdict", "reason"],
        help: "Bytes of those packets, of whole frames",
        samples: |status| {
            let packets = status.packets.iter();
            packets.map(|count| (verdict_labels(count), count.bytes)).collect()
        },
    },
    Metric {
        name: "malformed_packets",
        kind: Kind::Counter,
        labels: &["flaw"],
        help: "Packets of the reason `malformed`, by what was wrong with them",
        samples: |status| of_map(&status.malformed),
    },
    Metric {
        name: "requests",
        kind: Kind::Counter,
        labels: &["route", "code", "refusal"],
        help: "Requests that the proxy answered; refusal is empty where nothing was refused",
        samples: |status| {
            let outcomes = status.outcomes.iter();
            outcomes
                .map(|one| {
                    (vec![one.route.clone(), one.code.clone(), one.refusal.clone()], one.count)
                })
                .collect()
        },
    },
    Metric {
        name: "findings_monitored",
        kind: Kind::Counter,
        labels: &["refusal"],
        help: "Requests that would have been refused but for monitor mode",
        samples: |status| of_map(&status.monitored),
    },
    Metric {
        name: "connections_open",
        kind: Kind::Gauge,
        labels: &[],
        help: "Client connections that the proxy has open",
        samples: |status| plain(status.connections_open),
    },
    Metric {
        name: "tls_handshakes",
        kind: Kind::Counter,
        labels: &["result"],
        help: "TLS handshakes with clients: `full`, `resumed` or `failed`",
        samples: |status| of_map(&status.tls_handshakes),
    },
    Metric {
        name: "signed_messages",
        kind: Kind::Gauge,
        labels: &["state"],
        help: "Signed messages that are remembered (about), and how many can be",
        samples: |status| of_map(&status.signed_messages),
    },
    Metric {
        name: "signed_messages_refused",
        kind: Kind::Counter,
        labels: &["cause"],
        help: "Good signatures that were refused: no room to remember them, a repetition, another \
               copy under way, or nobody knows whether they are one",
        samples: |status| of_map(&status.signed_refused),
    },
    upstream::REQUESTS,
    upstream::FAILURES,
    upstream::RETRIES,
    upstream::ACTIVE,
    upstream::CONNECTIONS,
    upstream::UP,
    store::REQUESTS,
    store::UNREADABLE,
    store::BANS,
    store::UP,
    Metric {
        name: "bans",
        kind: Kind::Gauge,
        labels: &["scope"],
        help: "Bans in force",
        samples: |status| of_map(&status.bans),
    },
    Metric {
        name: "map_entries",
        kind: Kind::Gauge,
        labels: &["map"],
        help: "Entries in use of a table of the kernel program",
        samples: |status| {
            status.maps.iter().map(|(map, fill)| (vec![map.clone()], fill.entries)).collect()
        },
    },
    Metric {
        name: "map_capacity",
        kind: Kind::Gauge,
        labels: &["map"],
        help: "Entries that fit into a table of the kernel program",
        samples: |status| {
            status.maps.iter().map(|(map, fill)| (vec![map.clone()], fill.capacity)).collect()
        },
    },
    Metric {
        name: "events_lost",
        kind: Kind::Counter,
        labels: &["stage"],
        help: "What found no room on its way, by stage: at `kernel` packets of drop records, else events",
        samples: |status| of_map(&status.events_lost),
    },
    Metric {
        name: "attach_mode",
        kind: Kind::Gauge,
        labels: &["interface", "mode"],
        help: "1 for each interface with XDP on it, by how it runs (native or generic)",
        samples: |status| {
            let interfaces = status.interfaces.iter();
            interfaces.map(|one| (vec![one.name.clone(), one.mode.clone()], 1)).collect()
        },
    },
    Metric {
        name: "problems",
        kind: Kind::Gauge,
        labels: &[],
        help: "What is not working, as `limiter status` says it; 0 is well",
        samples: |status| plain(status.degraded.len() as u64),
    },
    Metric {
        name: "policy_generation",
        kind: Kind::Gauge,
        labels: &[],
        help: "Rises with each policy that is put in force",
        samples: |status| plain(status.policy_generation),
    },
    Metric {
        name: "uptime_seconds",
        kind: Kind::Gauge,
        labels: &["process"],
        help: "Seconds since the process started (agent, proxy); none while it does not run",
        samples: |status| {
            let of = |process: &str, seconds| (vec![process.to_owned()], seconds);
            let proxy = status.proxy_uptime_seconds.map(|seconds| of("proxy", seconds));
            std::iter::once(of("agent", status.uptime_seconds)).chain(proxy).collect()
        },
    },
    Metric {
        name: "proxy_starts",
        kind: Kind::Counter,
        labels: &[],
        help: "How often this agent started the proxy",
        samples: |status| plain(status.proxy_starts),
    },
    Metric {
        name: "build",
        kind: Kind::Info,
        labels: &["version", "build"],
        help: "What runs",
        samples: |_| {
            let build = option_env!("LIMITER_BUILD_ID").unwrap_or("unknown");
            vec![(vec![env!("CARGO_PKG_VERSION").to_owned(), build.to_owned()], 1)]
        },
    },
];

fn verdict_labels(count: &super::view::PacketCountView) -> Vec<String> {
    vec![count.interface.clone(), count.verdict.clone(), count.reason.clone()]
}

fn plain(value: u64) -> Vec<Sample> {
    vec![(Vec::new(), value)]
}

fn of_map(values: &std::collections::BTreeMap<String, u64>) -> Vec<Sample> {
    values.iter().map(|(label, value)| (vec![label.clone()], *value)).collect()
}

/// The metrics in the text form of `OpenMetrics` 1.0.
pub fn openmetrics(status: &StatusView) -> Result<String, fmt::Error> {
    let samples = METRICS.iter().map(|metric| (metric.samples)(status)).collect();
    let mut registry = Registry::with_prefix("limiter");
    registry.register_collector(Box::new(Scrape { samples, durations: status.durations.clone() }));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

/// The metrics in the older text form (version 0.0.4), in which the name of a family is that of
/// its samples, and which knows neither infos nor an end.
pub fn prometheus(status: &StatusView) -> Result<String, fmt::Error> {
    let mut out = String::new();
    for line in openmetrics(status)?.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "EOF"] => {}
            ["#", what @ ("HELP" | "TYPE"), name, rest] => {
                let kind = METRICS
                    .iter()
                    .find(|metric| name.strip_prefix("limiter_") == Some(metric.name))
                    .map_or(Kind::Gauge, |metric| metric.kind);
                let (suffix, rest) = match (kind, what) {
                    (Kind::Counter, _) => ("_total", rest),
                    (Kind::Info, "TYPE") => ("_info", "gauge"),
                    (Kind::Info, _) => ("_info", rest),
                    (Kind::Gauge, _) => ("", rest),
                };
                writeln!(out, "# {what} {name}{suffix} {rest}")?;
            }
            _ => {
                out += line;
                out.push('\n');
            }
        }
    }
    Ok(out)
}

/// The samples of one answer, in the order of [`METRICS`].
#[derive(Debug)]
struct Scrape {
    samples: Vec<Vec<Sample>>,
    durations: Vec<DurationView>,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (metric, samples) in METRICS.iter().zip(&self.samples) {
            let kind = match metric.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Info => MetricType::Info,
            };
            let mut family = encoder.encode_descriptor(metric.name, metric.help, None, kind)?;
            for (values, value) in samples {
                let labels: Vec<(&str, &str)> =
                    metric.labels.iter().copied().zip(values.iter().map(String::as_str)).collect();
                match metric.kind {
                    Kind::Info => family.encode_info(&labels)?,
                    // Empty braces are allowed, and not what anybody writes.
                    kind if labels.is_empty() => encode(&mut family, kind, *value)?,
                    kind => encode(&mut family.encode_family(&labels)?, kind, *value)?,
                }
            }
        }
        durations::encode(&mut encoder, &self.durations)
    }
}

fn encode(sample: &mut MetricEncoder<'_>, kind: Kind, value: u64) -> fmt::Result {
    match kind {
        Kind::Counter => sample.encode_counter::<NoLabelSet, _, u64>(&value, None),
        Kind::Gauge | Kind::Info => sample.encode_gauge(&value),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::admin::view::{InterfaceView, MapFillView, OutcomeView, PacketCountView};

    fn status() -> StatusView {
        StatusView {
            packets: vec![PacketCountView {
                interface: "eth0".into(),
                verdict: "drop".into(),
                reason: "banned".into(),
                packets: 10,
                bytes: 6000,
            }],
            outcomes: vec![OutcomeView {
                route: "a \"quoted\\\nname".into(),
                code: "429".into(),
                refusal: "rate_limited".into(),
                count: 3,
            }],
            interfaces: vec![InterfaceView {
                name: "eth0".into(),
                mode: "native".into(),
                ..InterfaceView::default()
            }],
            maps: BTreeMap::from([("bans".into(), MapFillView { entries: 1, capacity: 65_536 })]),
            events_lost: BTreeMap::from([("kernel".into(), u64::MAX)]),
            ..StatusView::default()
        }
    }

    #[test]
    fn the_form_that_openmetrics_asks_for() {
        let text = openmetrics(&status()).unwrap();
        for line in [
            "# TYPE limiter_packets counter",
            "limiter_packets_total{interface=\"eth0\",verdict=\"drop\",reason=\"banned\"} 10",
            "limiter_bytes_total{interface=\"eth0\",verdict=\"drop\",reason=\"banned\"} 6000",
            "limiter_requests_total{route=\"a \\\"quoted\\\\\\nname\",code=\"429\",refusal=\"rate_limited\"} 3",
            "limiter_map_entries{map=\"bans\"} 1",
            "limiter_map_capacity{map=\"bans\"} 65536",
            "limiter_events_lost_total{stage=\"kernel\"} 18446744073709551615",
            "limiter_attach_mode{interface=\"eth0\",mode=\"native\"} 1",
            "limiter_problems 0",
            "# TYPE limiter_build info",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
        }
        assert!(text.ends_with("\n# EOF\n"), "{text}");
        assert!(text.contains("\nlimiter_build_info{version=\""), "{text}");
    }

    #[test]
    fn the_older_form_names_families_as_samples() {
        let text = prometheus(&status()).unwrap();
        assert!(text.contains("# TYPE limiter_packets_total counter\nlimiter_packets_total{"));
        assert!(text.contains("# TYPE limiter_build_info gauge\nlimiter_build_info{"), "{text}");
        assert!(text.contains("# TYPE limiter_bans gauge\n"), "{text}");
        assert!(!text.contains("# EOF"));
    }

    #[test]
    fn every_sample_has_its_labels() {
        for metric in METRICS {
            for (values, _) in (metric.samples)(&status()) {
                assert_eq!(values.len(), metric.labels.len(), "{}", metric.name);
            }
        }
    }
}
