//! `request_headers` and `response_headers` of a route: written -> checked.
//!
//! What frames a message, what this proxy says about the client and what it answers for itself
//! are not a route's to edit.

use super::super::{
    document::http::EditsDocument, error::Report, headers::header_value, reserved, values,
};
use crate::policy::http::HeaderEdits;

/// Which message is edited.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Side {
    Request,
    Response,
}

/// Beginnings of the names of fields that are made anew for every request.
const OURS_IN_REQUESTS: [&str; 5] =
    ["forwarded", "x-forwarded-", "x-real-ip", "x-auth-", "x-request-id"];

/// Beginnings of the names of fields that are made anew for every response.
const OURS_IN_RESPONSES: [&str; 5] =
    ["x-request-id", "x-ratelimit-", "ratelimit", "retry-after", "access-control-"];

/// Request fields whose values are secrets.
const SECRET: [&str; 3] = ["authorization", "cookie", "x-api-key"];

pub(super) fn check(written: &EditsDocument, side: Side, report: &mut Report) -> HeaderEdits {
    let name = |text: &str| {
        let name = values::header_name(text)?;
        editable(&name, side)?;
        Ok(name)
    };
    let mut edits = HeaderEdits::default();
    for text in &written.remove {
        let Some(name) = report.value(text, name) else {
            continue;
        };
        if side == Side::Request && name == "host" {
            report.refuse(text.span(), "a request is not complete without its Host");
        }
        edits.remove.push(name);
    }
    for (key, value) in &written.set {
        let (Some(name), Some(value)) =
            (report.value(key, name), report.value(value, header_value))
        else {
            continue;
        };
        if side == Side::Request && SECRET.contains(&name.as_str()) {
            report.risk(key.span(), "a secret stands in the configuration file");
        }
        if edits.set.iter().any(|(known, _)| *known == name) {
            report.refuse(key.span(), format!("{name} is set twice"));
        }
        edits.set.push((name, value));
    }
    edits
}

fn editable(name: &str, side: Side) -> Result<(), String> {
    let ours = match side {
        Side::Request => OURS_IN_REQUESTS,
        Side::Response => OURS_IN_RESPONSES,
    };
    if reserved::frames(name) {
        return Err("says how a message is framed".to_owned());
    }
    if ours.iter().any(|beginning| name.starts_with(beginning)) {
        return Err("is written by the proxy itself".to_owned());
    }
    Ok(())
}
