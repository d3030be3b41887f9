//! Generates `docs/METRICS.md` from the table of metrics and fails when the file differs.
//! `UPDATE_DOCS=1 cargo test -p limiter-user metrics::reference` writes it.

#[cfg(test)]
mod tests {
    use std::{fmt::Write as _, fs};

    use limiter_common::verdict::{Action, Reason};

    use super::super::{Kind, METRICS, durations};
    use crate::refusal::Refusal;

    const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/METRICS.md");
    const COMMAND: &str = "UPDATE_DOCS=1 cargo test -p limiter-user metrics::reference";

    #[test]
    fn the_documentation_is_what_the_code_says() {
        let wanted = document();
        if std::env::var_os("UPDATE_DOCS").is_some() {
            fs::write(PATH, &wanted).unwrap();
        }
        let found = fs::read_to_string(PATH).unwrap_or_default();
        assert!(found == wanted, "docs/METRICS.md is out of date; write it with: {COMMAND}");
    }

    fn document() -> String {
        let mut out = format!(
            "# Metrics\n\n\
             Generated from the code; write it anew with `{COMMAND}`.\n\n\
             `GET /metrics` on the control socket answers in OpenMetrics 1.0, or in the older text \
             form (0.0.4) to whoever prefers `text/plain`:\n\n\
             ```\n\
             curl --unix-socket /run/limiter/control.sock http://localhost/metrics\n\
             ```\n\n\
             No label takes a value that a client can choose: addresses, paths and principals are in \
             events only. Packet counters live in the kernel and go on while no agent runs; request \
             counters begin anew with each proxy.\n\n\
             | Metric | Type | Labels | Meaning |\n|---|---|---|---|\n"
        );
        for metric in METRICS {
            let (suffix, kind) = match metric.kind {
                Kind::Counter => ("_total", "counter"),
                Kind::Gauge => ("", "gauge"),
                Kind::Info => ("_info", "info"),
            };
            let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let (name, labels, help) = (metric.name, labels.join(", "), metric.help);
            writeln!(out, "| `limiter_{name}{suffix}` | {kind} | {labels} | {help}. |").unwrap();
        }
        let (name, label, help) = (durations::NAME, durations::LABEL, durations::HELP);
        writeln!(out, "| `limiter_{name}` | histogram | `{label}` | {help}. |").unwrap();
        let list = |labels: &mut dyn Iterator<Item = &'static str>| {
            labels.map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ")
        };
        out += "\n## Values of labels\n\n";
        for (label, values) in [
            ("verdict", list(&mut Action::ALL.iter().map(|action| action.label()))),
            ("reason", list(&mut Reason::ALL.iter().map(|reason| reason.label()))),
            ("refusal", list(&mut Refusal::ALL.iter().map(|refusal| refusal.label()))),
        ] {
            writeln!(out, "- `{label}`: {values}").unwrap();
        }
        out += "- `code`: the status of the answer; `none` where the client was gone before; its class (`2xx`) where a proxy saw more \
                combinations of route, status and refusal than it tells apart\n\
                - `scope`: `kernel`, `http`\n\
                - `stage`: `kernel` (the ring buffer was full: the packets are told as source \
                `other`), `proxy` (between the processes), `escalation` (evidence that found no \
                room), `access_log` (lines that found no room or no disk), `followers` (readers of the stream), `sink NAME`, `sinks_removed`\n";
        out
    }
}
