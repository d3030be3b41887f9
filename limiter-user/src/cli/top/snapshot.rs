//! Rates between two answers of the agent: pure; as a document and as text.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    fmt::{self, Write as _},
};

use serde::Serialize;

use crate::{
    admin::view::{PacketCountView, SourceSort, TopSourceView, TopView},
    cli::output::{self, Table},
    events::Source,
};

/// What happens per second. `--once --json` prints it: stable.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Snapshot {
    /// Length of time behind the rates of verdicts and requests.
    pub(super) milliseconds: u64,
    /// Verdicts that there were, those of most packets first.
    pub(super) verdicts: Vec<VerdictRate>,
    /// Requests per second.
    pub(super) requests_per_second: u64,
    /// Refused requests per second.
    pub(super) refused_per_second: u64,
    /// Dropped packets of sources too many to be told apart.
    pub(super) untold_drops_per_second: u64,
    /// The sources at the top.
    pub(super) sources: Vec<TopSourceView>,
}

/// Packets of one verdict and reason, over all interfaces.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct VerdictRate {
    pub(super) verdict: String,
    pub(super) reason: String,
    pub(super) packets_per_second: u64,
    pub(super) bytes_per_second: u64,
}

impl Snapshot {
    pub(super) fn between(before: &TopView, now: TopView) -> Self {
        let milliseconds = now.clock_milliseconds.saturating_sub(before.clock_milliseconds);
        let rate = |now: u64, before: u64| rate(now, before, milliseconds);
        let (earlier, later) = (sums(&before.packets), sums(&now.packets));
        let mut verdicts: Vec<VerdictRate> = later
            .into_iter()
            .map(|(key, (packets, bytes))| {
                let (packets_before, bytes_before) = earlier.get(&key).copied().unwrap_or_default();
                VerdictRate {
                    verdict: key.0.to_owned(),
                    reason: key.1.to_owned(),
                    packets_per_second: rate(packets, packets_before),
                    bytes_per_second: rate(bytes, bytes_before),
                }
            })
            .filter(|verdict| verdict.packets_per_second > 0)
            .collect();
        verdicts.sort_by_key(|verdict| Reverse(verdict.packets_per_second));
        Self {
            milliseconds,
            verdicts,
            requests_per_second: rate(now.requests, before.requests),
            refused_per_second: rate(now.refused, before.refused),
            untold_drops_per_second: now.untold_drops_per_second,
            sources: now.sources,
        }
    }

    /// Another order of the sources that are there.
    pub(super) fn sort(&mut self, by: SourceSort) {
        self.sources.sort_by_key(|source| {
            Reverse(match by {
                SourceSort::Packets => source.packets_per_second,
                SourceSort::Bytes => source.bytes_per_second,
                SourceSort::Connections => source.connections_per_second,
                SourceSort::Dropped => source.drops_per_second,
            })
        });
    }

    /// Packets per second with this verdict.
    pub(super) fn packets_of(&self, verdict: &str) -> u64 {
        let of = self.verdicts.iter().filter(|one| one.verdict == verdict);
        of.map(|one| one.packets_per_second).sum()
    }

    /// For people.
    pub(super) fn text(&self) -> Result<String, fmt::Error> {
        let mut verdicts = Table::new(&["VERDICT", "REASON", ">PACKETS/S", ">BYTES/S"]);
        for one in &self.verdicts {
            let bytes = output::bytes(one.bytes_per_second);
            verdicts.row([&one.verdict, &one.reason, &one.packets_per_second, &bytes]);
        }
        let mut sources = Table::new(&[
            "SOURCE",
            ">PACKETS/S",
            ">BYTES/S",
            ">CONNECTIONS/S",
            ">DROPS/S",
            "VERDICT",
            "REASON",
            "LIST",
        ]);
        for source in &self.sources {
            sources.row([
                &Source::Prefix(source.source),
                &source.packets_per_second,
                &output::bytes(source.bytes_per_second),
                &source.connections_per_second,
                &source.drops_per_second,
                &source.verdict,
                &source.reason,
                &source.list,
            ]);
        }
        let mut out = String::new();
        writeln!(
            out,
            "requests {}/s, refused {}/s; dropped of sources too many to tell apart {}/s",
            self.requests_per_second, self.refused_per_second, self.untold_drops_per_second
        )?;
        for table in [verdicts, sources] {
            write!(out, "\n{table}")?;
        }
        Ok(out)
    }
}

type Sums<'a> = BTreeMap<(&'a str, &'a str), (u64, u64)>;

fn sums(counts: &[PacketCountView]) -> Sums<'_> {
    let mut sums = Sums::new();
    for count in counts {
        let sum = sums.entry((&count.verdict, &count.reason)).or_default();
        *sum = (sum.0.saturating_add(count.packets), sum.1.saturating_add(count.bytes));
    }
    sums
}

/// Rounded up: what happened at all is not 0. What went down began anew.
fn rate(now: u64, before: u64, milliseconds: u64) -> u64 {
    let count = if now < before { now } else { now - before };
    let rate = (u128::from(count) * 1000).div_ceil(u128::from(milliseconds.max(1)));
    u64::try_from(rate).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_time_between() {
        let view = |clock_milliseconds, packets, requests| TopView {
            clock_milliseconds,
            requests,
            packets: ["eth0", "eth1"]
                .map(|interface| PacketCountView {
                    interface: interface.into(),
                    verdict: "drop".into(),
                    reason: "banned".into(),
                    packets,
                    bytes: packets * 60,
                })
                .into(),
            ..TopView::default()
        };
        let snapshot = Snapshot::between(&view(1000, 10, 500), view(3000, 110, 20));
        assert_eq!(snapshot.milliseconds, 2000);
        let [verdict] = snapshot.verdicts.as_slice() else { panic!("{snapshot:?}") };
        assert_eq!((verdict.packets_per_second, verdict.bytes_per_second), (100, 6000));
        assert_eq!(snapshot.requests_per_second, 10, "the proxy was replaced");
        assert_eq!((snapshot.packets_of("drop"), snapshot.packets_of("pass")), (100, 0));
        let text = snapshot.text().unwrap();
        assert!(text.contains("drop     banned        100   6.0 kB\n"), "{text}");
    }
}
