//! `http.access_log`: written -> checked.

use std::path::PathBuf;

use toml::Spanned;

use super::{
    Scope, agent,
    document::{Text, shapes::AccessLogDocument},
    error::Report,
    events,
};
use crate::policy::http::{AccessFormat, AccessLogPolicy};

const DEFAULT_PATH: &str = "/var/log/limiter/access.log";

/// `None`: no access log.
pub(super) fn check(
    written: Option<&Spanned<AccessLogDocument>>,
    scope: &Scope<'_>,
    report: &mut Report,
) -> Option<AccessLogPolicy> {
    let written = written?;
    let document = written.get_ref();
    let bare = document.bare.as_ref().map(|text| Text::new(written.span(), text.clone()));
    let format = report.choice(
        bare.as_ref().or(document.table.format.as_ref()),
        &[
            ("off", None),
            ("json", Some(AccessFormat::Json)),
            ("combined", Some(AccessFormat::Combined)),
        ],
        &[],
    );
    if bare.is_none() && document.table.format.is_none() {
        report.refuse_with(
            written.span(),
            "`format` is missing",
            "format = \"json\" or \"combined\"",
        );
    }
    let path = match &document.table.path {
        Some(path) => agent::path(path, scope, report),
        None => PathBuf::from(DEFAULT_PATH),
    };
    let (rotate_bytes, keep) =
        events::rotation(document.table.rotate.as_ref().map(Spanned::get_ref), report);
    format.map(|format| AccessLogPolicy { format, path, rotate_bytes, keep })
}
