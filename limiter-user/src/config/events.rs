//! `[events]`: written -> checked.

use std::path::PathBuf;

use toml::Spanned;

use super::{
    Scope, agent,
    document::{EventsDocument, RotateDocument, SinkDocument},
    error::Report,
    values,
};
use crate::policy::{EventFormat, SinkKind, SinkPolicy};

const DEFAULT_LOG: &str = "/var/log/limiter/security.log";
const DEFAULT_ROTATE_BYTES: u64 = 100_000_000;
const DEFAULT_KEEP: u32 = 10;
/// A smaller file would rotate with every burst of events.
const MIN_ROTATE_BYTES: u64 = 4_096;

pub(super) fn check(
    written: &EventsDocument,
    scope: &Scope<'_>,
    report: &mut Report,
) -> Vec<SinkPolicy> {
    let Some(sinks) = &written.sink else {
        let file = SinkKind::File {
            path: PathBuf::from(DEFAULT_LOG),
            rotate_bytes: DEFAULT_ROTATE_BYTES,
            keep: DEFAULT_KEEP,
        };
        return [SinkKind::Stderr, file]
            .map(|kind| SinkPolicy { kind, format: EventFormat::Text, kinds: Vec::new() })
            .to_vec();
    };
    let mut checked: Vec<SinkPolicy> = Vec::new();
    for sink in sinks {
        let Some(policy) = one(sink, scope, report) else {
            continue;
        };
        if checked.iter().any(|other| same_target(&other.kind, &policy.kind)) {
            report.refuse(sink.span(), "another sink writes to the same place");
        }
        checked.push(policy);
    }
    checked
}

fn same_target(left: &SinkKind, right: &SinkKind) -> bool {
    match (left, right) {
        (SinkKind::Stderr, SinkKind::Stderr) => true,
        (SinkKind::File { path: left, .. }, SinkKind::File { path: right, .. }) => left == right,
        _ => false,
    }
}

fn one(
    written: &Spanned<SinkDocument>,
    scope: &Scope<'_>,
    report: &mut Report,
) -> Option<SinkPolicy> {
    let document = written.get_ref();
    let format = report.choice(
        document.format.as_ref(),
        &[("text", EventFormat::Text), ("json", EventFormat::Json)],
        &[],
    );
    let kinds = document.filter.kinds.as_deref().unwrap_or_default();
    let kinds = report.values(kinds, pattern);
    let Some(kind) = &document.kind else {
        report.refuse_with(written.span(), "`kind` is missing", "kind = \"stderr\" or \"file\"");
        return None;
    };
    let later = ["journald", "syslog", "webhook"];
    let is_file = report.choice(Some(kind), &[("stderr", false), ("file", true)], &later);
    if later.contains(&kind.get_ref().as_str()) {
        return None;
    }
    report.later(&[&document.url], "kind, format, path, rotate, filter");
    if !is_file {
        let of_file = [
            document.path.as_ref().map(Spanned::span),
            document.rotate.as_ref().map(Spanned::span),
        ];
        for place in of_file.into_iter().flatten() {
            report.refuse(place, "belongs to kind = \"file\"");
        }
        return Some(SinkPolicy { kind: SinkKind::Stderr, format, kinds });
    }
    let Some(path) = &document.path else {
        let example = format!("path = {DEFAULT_LOG:?}");
        report.refuse_with(written.span(), "a file sink needs its `path`", example);
        return None;
    };
    let path = agent::path(path, scope, report);
    let rotate = document.rotate.as_ref().map(Spanned::get_ref);
    let (rotate_bytes, keep) = rotation(rotate, report);
    Some(SinkPolicy { kind: SinkKind::File { path, rotate_bytes, keep }, format, kinds })
}

/// When a file is rotated, in bytes, and how many rotated ones are kept.
pub(super) fn rotation(rotate: Option<&RotateDocument>, report: &mut Report) -> (u64, u32) {
    let size = rotate.and_then(|rotate| rotate.size.as_ref());
    let rotate_bytes = report.value_or(
        size,
        |text| match values::size(text)? {
            bytes if bytes < MIN_ROTATE_BYTES => Err(format!("at least {MIN_ROTATE_BYTES} bytes")),
            bytes => Ok(bytes),
        },
        DEFAULT_ROTATE_BYTES,
    );
    let keep = rotate.and_then(|rotate| rotate.keep.as_ref());
    (rotate_bytes, report.number_or(keep, 0..=1_000, DEFAULT_KEEP))
}

/// A label, or the beginning of one and `*`.
fn pattern(text: &str) -> Result<String, String> {
    let stem = text.strip_suffix('*').unwrap_or(text);
    let ok = stem.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    if text.is_empty() || !ok {
        return Err("expected a label such as \"banned\", or its beginning and `*`".to_owned());
    }
    Ok(text.to_owned())
}
