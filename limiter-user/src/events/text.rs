//! The one-line form for people and for tools that read the security log, e.g.
//! `[2026-01-15 10:23:45] WARN: [SECURITY] Rate limit exceeded for IP: 10.0.0.50`.
//!
//! The beginning of each line is stable. Behind it stand, where they apply, the request, the
//! detail, ` (x312)` for how many it stands for and ` (monitor)` where nothing was enforced.

use std::{
    fmt::{self, Display, Formatter},
    time::Duration,
};

use super::{Event, EventKind, Lifecycle, Source, civil::Civil, escape};
use crate::{link::RequestFacts, policy::Mode, refusal::Refusal};

const MAX_METHOD_BYTES: usize = 32;
const MAX_PATH_BYTES: usize = 256;
const MAX_NAME_BYTES: usize = 128;
const MAX_DETAIL_BYTES: usize = 512;

/// The whole line, without its line feed.
pub fn line(event: &Event) -> impl Display {
    fmt::from_fn(move |f| {
        write!(
            f,
            "[{}] {}: [SECURITY] {}",
            Civil::from_unix_ns(event.unix_ns),
            event.kind.level().upper(),
            message(event)
        )
    })
}

/// The line behind the tag, also the `message` of the JSON form.
pub fn message(event: &Event) -> impl Display {
    fmt::from_fn(move |f| {
        match event.kind {
            EventKind::Refused(refusal) => refused(f, event, refusal)?,
            EventKind::PacketsDropped(reason) => write!(
                f,
                "Dropped {} packets from {} in 1s: {}",
                event.count,
                who(event),
                reason.label()
            )?,
            EventKind::Lifecycle(lifecycle) => happened(f, event, lifecycle)?,
        }
        if counts_requests(event.kind) && event.count > 1 {
            write!(f, " (x{})", event.count)?;
        }
        if event.mode == Mode::Monitor {
            f.write_str(" (monitor)")?;
        }
        Ok(())
    })
}

/// `90s`, `10m`, `2h`, `7d`: whole seconds in the largest unit that divides them.
pub fn duration(duration: Duration) -> impl Display {
    let seconds = duration.as_secs();
    fmt::from_fn(move |f| {
        let (count, unit) = match seconds {
            0 => (0, 's'),
            _ if seconds.is_multiple_of(86_400) => (seconds / 86_400, 'd'),
            _ if seconds.is_multiple_of(3600) => (seconds / 3600, 'h'),
            _ if seconds.is_multiple_of(60) => (seconds / 60, 'm'),
            _ => (seconds, 's'),
        };
        write!(f, "{count}{unit}")
    })
}

fn refused(f: &mut Formatter<'_>, event: &Event, refusal: Refusal) -> fmt::Result {
    if let (Refusal::RateLimited, Some(request)) = (refusal, &event.request)
        && let Some(limit) = &request.limit
        && let Some((words, what, named)) = limited(limit, &request.path)
    {
        write!(f, "{words} {}, {what}: {}", who(event), escape::token(named, MAX_PATH_BYTES))?;
        return detail(f, event, ": ");
    }
    let (words, with_request) = match refusal {
        Refusal::MalformedRequest => ("Malformed request from", true),
        Refusal::Misdirected => ("Request for another host from", true),
        Refusal::HttpsRequired => ("Request without TLS refused from", true),
        Refusal::Banned => ("Request refused from banned", false),
        Refusal::ForbiddenAddress => ("Forbidden address", true),
        Refusal::NotFound => ("No route for request from", true),
        Refusal::MethodNotAllowed => ("Method not allowed from", true),
        Refusal::CorsRefused => ("CORS request refused from", true),
        Refusal::Guarded => ("Too many failed attempts from", false),
        Refusal::Unauthorized => ("Unauthorized access attempt from", false),
        Refusal::InvalidCredential => ("Invalid credential from", false),
        Refusal::Replayed => ("Repeated message from", true),
        Refusal::ForbiddenScope => ("Not allowed to", true),
        Refusal::RateLimited => ("Rate limit exceeded for IP:", false),
        Refusal::RateLimitedFar => ("Rate limit far exceeded for IP:", false),
        Refusal::ConcurrencyLimited => ("Too many requests at once from", false),
        Refusal::BodyTooLarge => ("Request body too large from", true),
        Refusal::UnsupportedMediaType => ("Media type not supported in request from", true),
        Refusal::HeadTooLarge => ("Request head too large from", false),
        Refusal::UnsupportedVersion => ("Unsupported version of HTTP from", false),
        Refusal::Timeout => ("Request timed out from", false),
        Refusal::Overloaded => ("Overloaded, request refused from", false),
        Refusal::UpstreamFailed => ("Upstream failed for request from", true),
        Refusal::UpstreamTimeout => ("Upstream timed out for request from", true),
    };
    write!(f, "{words} {}", who(event))?;
    if let (true, Some(request)) = (with_request, &event.request) {
        write!(f, ": {}", head(request))?;
    }
    detail(f, event, ": ")
}

/// The beginning of the line for a limit that has one of its own, and what it names of the path.
fn limited<'a>(limit: &str, path: &'a str) -> Option<(&'static str, &'static str, &'a str)> {
    let words = match limit {
        "file-system" => "File system rate limit exceeded for IP:",
        "upload" => "Upload rate limit exceeded for IP:",
        "authentication" => "Auth rate limit exceeded for IP:",
        "channel-validation" => {
            let channel = path.split('/').nth(4).unwrap_or(path);
            let words = "Channel validation rate limit exceeded for IP:";
            return Some((words, "attempted channel", channel));
        }
        _ => return None,
    };
    Some((words, "endpoint", path))
}

fn happened(f: &mut Formatter<'_>, event: &Event, lifecycle: Lifecycle) -> fmt::Result {
    match lifecycle {
        Lifecycle::Authenticated => {
            write!(f, "Authenticated {}", who(event))?;
            if let Some(name) = event.request.as_ref().and_then(|r| r.principal.as_deref()) {
                write!(f, ": {}", escape::token(name, MAX_NAME_BYTES))?;
            }
            detail(f, event, ": ")
        }
        Lifecycle::Banned => {
            write!(f, "Banned {}", who(event))?;
            detail(f, event, " ")
        }
        Lifecycle::Unbanned => {
            write!(f, "Unbanned {}", who(event))?;
            detail(f, event, ": ")
        }
        Lifecycle::EventsLost => {
            write!(f, "Lost {} events", event.count)?;
            detail(f, event, ": ")
        }
        Lifecycle::ConfigReloaded => sentence(f, event, "Configuration reloaded"),
        Lifecycle::ConfigRejected => sentence(f, event, "Configuration rejected"),
        Lifecycle::Attached => sentence(f, event, "XDP attached"),
        Lifecycle::Detached => sentence(f, event, "XDP detached"),
        Lifecycle::SynFlood => sentence(f, event, "Flood of connection requests"),
        Lifecycle::BreakerOpened => sentence(f, event, "Breaker opened"),
        Lifecycle::BreakerClosed => sentence(f, event, "Breaker closed"),
        Lifecycle::UpstreamDown => sentence(f, event, "Upstream server is down"),
        Lifecycle::UpstreamUp => sentence(f, event, "Upstream server is up"),
        Lifecycle::Degraded => sentence(f, event, "Degraded"),
    }
}

fn sentence(f: &mut Formatter<'_>, event: &Event, words: &str) -> fmt::Result {
    f.write_str(words)?;
    detail(f, event, ": ")
}

fn detail(f: &mut Formatter<'_>, event: &Event, before: &str) -> fmt::Result {
    if event.detail.is_empty() {
        return Ok(());
    }
    f.write_str(before)?;
    escape::line(&event.detail, MAX_DETAIL_BYTES).fmt(f)
}

/// The client, and the peer it came through where that is another.
fn who(event: &Event) -> impl Display {
    fmt::from_fn(move |f| {
        match event.offender() {
            Some(offender) => offender.fmt(f)?,
            None => f.write_str("unknown")?,
        }
        match (event.client, event.source) {
            (Some(client), Some(source)) if source != Source::Address(client) => {
                write!(f, " via {source}")
            }
            _ => Ok(()),
        }
    })
}

fn head(request: &RequestFacts) -> impl Display {
    fmt::from_fn(move |f| {
        write!(
            f,
            "{} {}",
            escape::token(&request.method, MAX_METHOD_BYTES),
            escape::token(&request.path, MAX_PATH_BYTES)
        )
    })
}

/// Whether the count is not already part of the sentence.
const fn counts_requests(kind: EventKind) -> bool {
    !matches!(kind, EventKind::PacketsDropped(_) | EventKind::Lifecycle(Lifecycle::EventsLost))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use limiter_common::verdict::Reason;

    use super::*;

    const AT: u64 = 1_768_472_625_000_000_000;

    fn refusal(refusal: Refusal) -> Event {
        let request =
            RequestFacts { method: "GET".into(), path: "/api/x".into(), ..RequestFacts::default() };
        Event {
            kind: EventKind::Refused(refusal),
            source: Some(Source::Address(IpAddr::from([192, 168, 1, 100]))),
            request: Some(Box::new(request)),
            ..Event::lifecycle(AT, Lifecycle::Degraded, "")
        }
    }

    #[test]
    fn limits_with_a_line_of_their_own_name_the_path() {
        let mut event = refusal(Refusal::RateLimited);
        let said =
            |event: &Event| line(event).to_string().split_off("[2026-01-15 10:23:45] ".len());
        let general = "WARN: [SECURITY] Rate limit exceeded for IP: 192.168.1.100";
        assert_eq!(said(&event), general);
        event.request.as_mut().unwrap().limit = Some("api".into());
        assert_eq!(said(&event), general);
        event.request.as_mut().unwrap().limit = Some("upload".into());
        assert_eq!(
            said(&event),
            "WARN: [SECURITY] Upload rate limit exceeded for IP: 192.168.1.100, endpoint: /api/x"
        );
        event.kind = EventKind::Refused(Refusal::Guarded);
        assert!(said(&event).ends_with("Too many failed attempts from 192.168.1.100"));
    }

    #[test]
    fn the_lines_of_the_log_this_replaces() {
        assert_eq!(
            line(&refusal(Refusal::Unauthorized)).to_string(),
            "[2026-01-15 10:23:45] WARN: [SECURITY] Unauthorized access attempt from 192.168.1.100"
        );
        assert_eq!(
            line(&refusal(Refusal::RateLimited)).to_string(),
            "[2026-01-15 10:23:45] WARN: [SECURITY] Rate limit exceeded for IP: 192.168.1.100"
        );
        let prefix = "203.0.113.0/32".parse().unwrap();
        let why = "score 60 of 50 in 60s (invalid_credential 12)";
        let ban = Event::banned(AT, prefix, Duration::from_mins(10), why, Mode::Enforce);
        assert_eq!(
            line(&ban).to_string(),
            "[2026-01-15 10:23:45] WARN: [SECURITY] Banned 203.0.113.0 for 10m: \
             score 60 of 50 in 60s (invalid_credential 12)"
        );
        let source = Source::Address(IpAddr::from([203, 0, 113, 0]));
        let drops = Event::packets(AT, source, Reason::Banned, 18204, 0, Mode::Enforce);
        assert_eq!(
            line(&drops).to_string(),
            "[2026-01-15 10:23:45] WARN: [SECURITY] Dropped 18204 packets from 203.0.113.0 in 1s: banned"
        );
    }

    #[test]
    fn counts_modes_and_proxies_stand_at_the_end() {
        let mut event = refusal(Refusal::InvalidCredential);
        event.client = Some("2001:db8::7".parse().unwrap());
        event.count = 312;
        event.mode = Mode::Monitor;
        assert_eq!(
            message(&event).to_string(),
            "Invalid credential from 2001:db8::7 via 192.168.1.100 (x312) (monitor)"
        );
        event.client = None;
        event.source = Some(Source::Other);
        assert_eq!(message(&event).to_string(), "Invalid credential from other (x312) (monitor)");
        event.source = Some(Source::Address("::ffff:192.0.2.1".parse().unwrap()));
        event.count = 1;
        assert_eq!(message(&event).to_string(), "Invalid credential from 192.0.2.1 (monitor)");
        let prefix = "2001:db8::/48".parse().unwrap();
        assert_eq!(message(&Event::unbanned(AT, prefix)).to_string(), "Unbanned 2001:db8::/48");
        let lost = Event { count: 17, ..Event::lifecycle(AT, Lifecycle::EventsLost, "stderr") };
        assert_eq!(message(&lost).to_string(), "Lost 17 events: stderr");
    }

    #[test]
    fn nothing_a_client_sends_makes_a_second_line() {
        let mut event = refusal(Refusal::NotFound);
        let request = event.request.as_mut().unwrap();
        request.path = "/\n[2026-01-15 10:23:45] WARN: [SECURITY] Banned 8.8.8.8".repeat(40);
        request.method = "G\rT".into();
        event.detail = "a\nb".into();
        let text = line(&event).to_string();
        assert!(text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()));
        assert_eq!(text.matches("[SECURITY]").count(), 1);
        assert!(text.len() < 1024, "{}", text.len());
    }

    #[test]
    fn durations_in_the_largest_whole_unit() {
        for (seconds, text) in [(0, "0s"), (90, "90s"), (600, "10m"), (7200, "2h"), (604_800, "7d")]
        {
            assert_eq!(duration(Duration::from_secs(seconds)).to_string(), text);
        }
    }
}
