//! The JSON form: one object a line, field names of the Elastic Common Schema written flat
//! (`"source.ip"`), ASCII only, so that no terminal or log reader can be confused by it.

use std::{collections::BTreeMap, io};

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter};

use super::{Event, EventKind, Lifecycle, civil::Civil, text};
use crate::policy::Mode;

/// Where a line stands in what one sink or follower was given.
#[derive(Clone, Copy, Debug)]
pub struct Position<'a> {
    /// Random id of this run of the agent.
    pub run: &'a str,
    /// Rises by one per event before the filter; a gap is a loss.
    pub sequence: u64,
}

/// The object, without its line feed.
pub fn line(event: &Event, position: Position<'_>) -> String {
    let mut out = Vec::with_capacity(512);
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, Ascii(CompactFormatter));
    // Writing to memory, of strings and integers only: neither can fail.
    if Document::new(event, position).serialize(&mut serializer).is_err() {
        out.clear();
    }
    String::from_utf8(out).unwrap_or_default()
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(rename = "@timestamp")]
    timestamp: String,
    #[serde(rename = "event.kind")]
    kind: &'static str,
    #[serde(rename = "event.action")]
    action: &'static str,
    #[serde(rename = "event.outcome")]
    outcome: &'static str,
    #[serde(rename = "event.reason", skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(rename = "log.level")]
    level: &'static str,
    message: String,
    #[serde(rename = "source.ip", skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(rename = "source.address", skip_serializing_if = "Option::is_none")]
    source_address: Option<String>,
    #[serde(rename = "client.ip", skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    request: Option<Request<'a>>,
    #[serde(rename = "limiter.count")]
    count: u64,
    #[serde(rename = "limiter.packets", skip_serializing_if = "Option::is_none")]
    packets: Option<u64>,
    #[serde(rename = "limiter.bytes", skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(rename = "limiter.interface", skip_serializing_if = "Option::is_none")]
    interface: Option<&'a str>,
    #[serde(rename = "limiter.score", skip_serializing_if = "Option::is_none")]
    score: Option<u32>,
    #[serde(rename = "limiter.findings", skip_serializing_if = "BTreeMap::is_empty")]
    findings: BTreeMap<&'static str, u64>,
    #[serde(rename = "limiter.mode")]
    mode: Mode,
    #[serde(rename = "limiter.run")]
    run: &'a str,
    #[serde(rename = "limiter.sequence")]
    sequence: u64,
}

#[derive(Serialize)]
struct Request<'a> {
    #[serde(rename = "http.request.id", skip_serializing_if = "str::is_empty")]
    id: &'a str,
    #[serde(rename = "http.request.method", skip_serializing_if = "str::is_empty")]
    method: &'a str,
    #[serde(rename = "url.path", skip_serializing_if = "str::is_empty")]
    path: &'a str,
    #[serde(rename = "user_agent.original", skip_serializing_if = "str::is_empty")]
    user_agent: &'a str,
    #[serde(rename = "http.response.status_code", skip_serializing_if = "is_zero")]
    status: u16,
    #[serde(rename = "limiter.route", skip_serializing_if = "str::is_empty")]
    route: &'a str,
    #[serde(rename = "user.name", skip_serializing_if = "Option::is_none")]
    principal: Option<&'a str>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_zero(status: &u16) -> bool {
    *status == 0
}

impl<'a> Document<'a> {
    fn new(event: &'a Event, position: Position<'a>) -> Self {
        let packets = matches!(event.kind, EventKind::PacketsDropped(_));
        // `source.ip` is of type `ip` in the schema: prefixes and `other` have no place there.
        let (address, other) = match event.source {
            Some(source) if source.is_address() => (Some(source), None),
            other => (None, other),
        };
        Self {
            timestamp: Civil::from_unix_ns(event.unix_ns).rfc3339().to_string(),
            kind: kind(event.kind),
            action: event.kind.label(),
            outcome: outcome(event),
            reason: match event.kind {
                EventKind::PacketsDropped(reason) => Some(reason.label()),
                _ => None,
            },
            level: event.kind.level().lower(),
            message: text::message(event).to_string(),
            source: address.map(|source| source.to_string()),
            source_address: other.map(|source| source.to_string()),
            client: event.client.map(|client| client.to_canonical().to_string()).or_else(|| {
                // Who makes a request is the peer unless somebody else is named.
                let is_request = matches!(event.kind, EventKind::Refused(_));
                address.filter(|_| is_request).map(|source| source.to_string())
            }),
            request: event.request.as_ref().map(|request| Request {
                id: bounded(&request.id, 128),
                method: bounded(&request.method, 32),
                path: bounded(&request.path, 256),
                user_agent: bounded(&request.user_agent, 128),
                status: request.status,
                route: bounded(&request.route, 256),
                principal: request.principal.as_deref().map(|name| bounded(name, 128)),
            }),
            count: event.count,
            packets: packets.then_some(event.count),
            bytes: packets.then_some(event.bytes),
            interface: event.interface.as_deref(),
            score: event.evidence.as_ref().map(|evidence| evidence.score),
            findings: event
                .evidence
                .iter()
                .flat_map(|evidence| evidence.findings.iter().copied())
                .collect(),
            mode: event.mode,
            run: position.run,
            sequence: position.sequence,
        }
    }
}

/// `alert` where somebody was refused or banned, else `event` (ECS `event.kind`).
const fn kind(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Refused(_)
        | EventKind::PacketsDropped(_)
        | EventKind::Lifecycle(Lifecycle::Banned) => "alert",
        EventKind::Lifecycle(_) => "event",
    }
}

/// `failure` where the request, the packet or our own work did not get through.
const fn outcome(event: &Event) -> &'static str {
    match (event.kind, event.mode) {
        (EventKind::Refused(_) | EventKind::PacketsDropped(_), Mode::Enforce)
        | (
            EventKind::Lifecycle(
                Lifecycle::ConfigRejected | Lifecycle::Degraded | Lifecycle::EventsLost,
            ),
            _,
        ) => "failure",
        _ => "success",
    }
}

fn bounded(text: &str, max_bytes: usize) -> &str {
    &text[..text.floor_char_boundary(max_bytes)]
}

/// Writes what is not ASCII as `\uNNNN` (surrogate pairs beyond the basic plane), and DEL too.
struct Ascii(CompactFormatter);

impl Formatter for Ascii {
    fn write_string_fragment<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if fragment.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return self.0.write_string_fragment(writer, fragment);
        }
        for c in fragment.chars() {
            if matches!(c, ' '..='~') {
                self.0.write_string_fragment(writer, c.encode_utf8(&mut [0; 4]))?;
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use limiter_common::verdict::Reason;
    use serde_json::json;

    use super::*;
    use crate::{
        events::{Evidence, Source},
        link::RequestFacts,
        refusal::Refusal,
    };

    const POSITION: Position<'_> = Position { run: "r", sequence: 7 };

    #[test]
    fn a_refusal_has_the_fields_of_the_schema() {
        let path = "/a\n\u{1f600}\"\u{9b}";
        let event = Event {
            kind: EventKind::Refused(Refusal::RateLimited),
            source: Some(Source::Address(IpAddr::from([10, 0, 0, 1]))),
            client: Some(IpAddr::from([10, 0, 0, 50])),
            count: 3,
            request: Some(Box::new(RequestFacts {
                id: "id".into(),
                method: "GET".into(),
                path: path.into(),
                user_agent: "curl".into(),
                status: 429,
                route: "api".into(),
                principal: None,
                limit: None,
            })),
            ..Event::lifecycle(1_768_472_625_000_000_000, Lifecycle::Banned, "")
        };
        let line = line(&event, POSITION);
        assert!(line.is_ascii() && !line.contains('\n'), "{line}");
        let document: serde_json::Value = serde_json::from_str(&line).unwrap();
        let expected = json!({
            "@timestamp": "2026-01-15T10:23:45.000000Z",
            "event.kind": "alert",
            "event.action": "rate_limited",
            "event.outcome": "failure",
            "log.level": "warn",
            "message": "Rate limit exceeded for IP: 10.0.0.50 via 10.0.0.1 (x3)",
            "source.ip": "10.0.0.1",
            "client.ip": "10.0.0.50",
            "http.request.id": "id",
            "http.request.method": "GET",
            "url.path": path,
            "user_agent.original": "curl",
            "http.response.status_code": 429,
            "limiter.route": "api",
            "limiter.count": 3,
            "limiter.mode": "enforce",
            "limiter.run": "r",
            "limiter.sequence": 7,
        });
        assert_eq!(document, expected);
    }

    #[test]
    fn who_makes_a_request_is_the_peer_unless_another_is_named() {
        let event = Event {
            kind: EventKind::Refused(Refusal::RateLimited),
            source: Some(Source::Address(IpAddr::from([10, 0, 0, 1]))),
            ..Event::lifecycle(0, Lifecycle::Banned, "")
        };
        let document: serde_json::Value = serde_json::from_str(&line(&event, POSITION)).unwrap();
        assert_eq!(document["client.ip"], "10.0.0.1");
        assert_eq!(document["message"], "Rate limit exceeded for IP: 10.0.0.1");
    }

    #[test]
    fn packets_say_how_many_and_why() {
        let source = Source::Address(IpAddr::from([10, 0, 0, 1]));
        let event = Event {
            interface: Some("eth0".into()),
            ..Event::packets(0, source, Reason::PacketRate, 9, 900, Mode::Monitor)
        };
        let document: serde_json::Value = serde_json::from_str(&line(&event, POSITION)).unwrap();
        assert_eq!(document["event.action"], "packets_dropped");
        assert_eq!(document["event.reason"], "packet_rate");
        assert_eq!(document["event.outcome"], "success");
        assert_eq!(document["limiter.packets"], 9);
        assert_eq!(document["limiter.bytes"], 900);
        assert_eq!(document["limiter.mode"], "monitor");
        assert_eq!(document["limiter.interface"], "eth0");
        assert!(document.get("limiter.score").is_none());
    }

    #[test]
    fn a_ban_says_what_it_is_for() {
        let prefix = "203.0.113.0/32".parse().unwrap();
        let length = std::time::Duration::from_mins(10);
        let evidence = Evidence { score: 60, findings: vec![("invalid_credential", 12)] };
        let event = Event {
            evidence: Some(Box::new(evidence)),
            ..Event::banned(0, prefix, length, "score 60 of 50", Mode::Enforce)
        };
        let document: serde_json::Value = serde_json::from_str(&line(&event, POSITION)).unwrap();
        assert_eq!(document["limiter.score"], 60);
        assert_eq!(document["limiter.findings"], json!({ "invalid_credential": 12 }));
        assert_eq!(document["source.ip"], "203.0.113.0");
    }
}
