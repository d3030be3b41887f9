//! Generates `docs/EVENTS.md` from the lists of labels and fails when the file differs.
//! `UPDATE_DOCS=1 cargo test -p limiter-user events::reference` writes it.

#[cfg(test)]
mod tests {
    use std::{fmt::Write as _, fs, net::IpAddr, path::Path};

    use limiter_common::verdict::Reason;

    use super::super::{
        Event, EventKind, Lifecycle, Source,
        aggregate::MAX_KEYS,
        recent::{MAX_BYTES, MAX_EVENTS},
        text,
    };
    use crate::{link::RequestFacts, policy::Mode, refusal::Refusal};

    const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/EVENTS.md");
    const COMMAND: &str = "UPDATE_DOCS=1 cargo test -p limiter-user events::reference";

    #[test]
    fn the_documentation_is_what_the_code_says() {
        let wanted = document();
        if std::env::var_os("UPDATE_DOCS").is_some() {
            fs::create_dir_all(Path::new(PATH).parent().unwrap()).unwrap();
            fs::write(PATH, &wanted).unwrap();
        }
        let found = fs::read_to_string(PATH).unwrap_or_default();
        assert!(found == wanted, "docs/EVENTS.md is out of date; write it with: {COMMAND}");
    }

    fn document() -> String {
        let mut out = format!(
            "# Events\n\n\
             Generated from the code; write it anew with `{COMMAND}`.\n\n\
             Each event is one line, as text or as JSON. The text form begins as shown; behind it may \
             stand a detail, ` (x312)` for how many requests it stands for, and ` (monitor)` where \
             nothing was enforced. Times are UTC. Text that a client sent is escaped and bounded.\n\n\
             `event.action` of the JSON form is the label, `event.reason` the reason of dropped \
             packets. Filters (`kinds` of a sink, `--kind`) match labels; `*` at the end matches any \
             rest. `limiter.sequence` rises by one per event before the filter; a gap is a loss, and \
             an `events_lost` line of the same size follows it.\n\n\
             What the kernel drops is counted there, and told per source, reason and second: events \
             and counters are the same numbers, packets and bytes. A record that finds no room in the \
             ring buffer, and sources beyond {MAX_KEYS} in a second, are told as source `other`. \
             While no agent runs the kernel goes on counting and keeps what it can in its slots and \
             its buffer; the next agent tells all of it. What a killed agent had handed to a sink and \
             the sink had not written is the only loss that nobody counts. Another size of the tables \
             (`max_sources` and the like) begins with counters of its own.\n\n\
             The agent keeps the last events in memory, at most {MAX_EVENTS} and about {} MiB of them, \
             for `limiter events --since` and `GET /v1/events`; what fell out is told by a first line \
             `events_lost`.\n",
            MAX_BYTES >> 20,
        );
        out += "\n## Refused requests\n\n| Label | Status | Level | Line | Meaning |\n|---|---|---|---|---|\n";
        for refusal in Refusal::ALL {
            let kind = EventKind::Refused(*refusal);
            let status = refusal.status().to_string();
            row(&mut out, refusal.label(), Some(&status), kind, refusal.meaning());
        }
        out += "\n## Dropped packets\n\nThe label is `packets_dropped`; the reasons are:\n\n\
                | Reason | Level | Line | Meaning |\n|---|---|---|---|\n";
        for reason in Reason::ALL {
            if passes(*reason) {
                let (label, meaning) = (reason.label(), reason.meaning());
                writeln!(out, "| `{label}` | | passed, only counted | {meaning} |").unwrap();
                continue;
            }
            let kind = EventKind::PacketsDropped(*reason);
            row(&mut out, reason.label(), None, kind, reason.meaning());
        }
        out += "\n## Everything else\n\n| Label | Level | Line | Meaning |\n|---|---|---|---|\n";
        for lifecycle in Lifecycle::ALL {
            let kind = EventKind::Lifecycle(*lifecycle);
            row(&mut out, lifecycle.label(), None, kind, lifecycle.meaning());
        }
        out
    }

    const fn passes(reason: Reason) -> bool {
        use Reason::{
            Allowed, Essential, Failsafe, Forwarded, Reply, SynCookie, Trusted, Untracked,
        };
        matches!(
            reason,
            Allowed | Essential | Trusted | Reply | Failsafe | Forwarded | Untracked | SynCookie
        )
    }

    fn row(out: &mut String, label: &str, status: Option<&str>, kind: EventKind, meaning: &str) {
        let status = status.map_or(String::new(), |status| format!("{status} | "));
        let level = kind.level().upper();
        let line = text::message(&sample(kind)).to_string();
        writeln!(out, "| `{label}` | {status}{level} | `{line}` | {meaning} |").unwrap();
    }

    fn sample(kind: EventKind) -> Event {
        let address = Source::Address(IpAddr::from([203, 0, 113, 7]));
        let (source, detail) = match kind {
            EventKind::Lifecycle(lifecycle) => match lifecycle {
                Lifecycle::Banned => {
                    (Some(address), "for 10m: score 60 of 50 in 60s (invalid_credential 12)")
                }
                Lifecycle::Authenticated | Lifecycle::Unbanned => (Some(address), ""),
                Lifecycle::ConfigReloaded => (None, "generation 3"),
                Lifecycle::ConfigRejected => (None, "limiter.toml:3: kernel.mode"),
                Lifecycle::Attached | Lifecycle::Detached => (None, "eth0 (native)"),
                Lifecycle::SynFlood => (None, "begun"),
                Lifecycle::BreakerOpened | Lifecycle::BreakerClosed | Lifecycle::UpstreamUp => {
                    (None, "api (http://10.0.0.2:3000)")
                }
                Lifecycle::UpstreamDown => (None, "api (http://10.0.0.2:3000): status 503"),
                Lifecycle::Degraded => (None, "the proxy is not running"),
                Lifecycle::EventsLost => (None, "sink stderr was too slow or failed"),
            },
            _ => (Some(address), ""),
        };
        Event {
            unix_ns: 0,
            kind,
            source,
            client: None,
            count: match kind {
                EventKind::PacketsDropped(_) | EventKind::Lifecycle(Lifecycle::EventsLost) => 18204,
                _ => 1,
            },
            bytes: 0,
            mode: Mode::Enforce,
            request: matches!(kind, EventKind::Refused(_)).then(|| {
                Box::new(RequestFacts {
                    method: "GET".into(),
                    path: "/api/x".into(),
                    ..RequestFacts::default()
                })
            }),
            interface: None,
            evidence: None,
            detail: detail.into(),
        }
    }
}
