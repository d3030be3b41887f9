//! The environment variables of an ElizaOS server, read as that server means them, or refused with
//! what is allowed where it would take them for something else.

use std::net::IpAddr;

use crate::{
    config::{Sources, error::Report, values},
    policy::{
        http::OriginPattern,
        listener::ListenerPolicy,
        upstream::{Scheme, ServerPolicy, UpstreamPolicy},
    },
};

/// Where that server listens unless told.
const DEFAULT_PORT: u16 = 3000;

/// What the environment says.
#[derive(Clone, Debug)]
pub(in crate::config) struct Settings {
    /// Whether the web UI is served: `ELIZA_UI_ENABLE`, else not in production.
    pub(in crate::config) has_ui: bool,
    /// `NODE_ENV=production`.
    pub(in crate::config) is_production: bool,
    /// `CORS_ORIGIN`; `None`: every origin.
    pub(in crate::config) origins: Option<Vec<OriginPattern>>,
    /// `API_CORS_ORIGIN`, else as `origins`.
    pub(in crate::config) api_origins: Option<Vec<OriginPattern>>,
    /// `EXPRESS_MAX_PAYLOAD`.
    pub(in crate::config) max_payload_bytes: Option<u64>,
    /// The server behind: `SERVER_HOST`, `SERVER_PORT`.
    pub(in crate::config) server: ServerPolicy,
}

/// Reads all of them.
pub(in crate::config) fn read(sources: &Sources<'_>, report: &mut Report) -> Settings {
    let variable = |name: &str| {
        let text = sources.variable(name)?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let is_production = variable("NODE_ENV").as_deref() == Some("production");
    let ui = variable("ELIZA_UI_ENABLE")
        .and_then(|text| report.parsed("ELIZA_UI_ENABLE", &text, boolean));
    let origins = listed("CORS_ORIGIN", variable("CORS_ORIGIN").as_deref(), report);
    let api_origins = match variable("API_CORS_ORIGIN") {
        Some(text) => listed("API_CORS_ORIGIN", Some(&text), report),
        None => origins.clone(),
    };
    let max_payload_bytes = variable("EXPRESS_MAX_PAYLOAD")
        .and_then(|text| report.parsed("EXPRESS_MAX_PAYLOAD", &text, bytes));
    let host = variable("SERVER_HOST").and_then(|text| report.parsed("SERVER_HOST", &text, host));
    let port = variable("SERVER_PORT").and_then(|text| report.parsed("SERVER_PORT", &text, port));
    Settings {
        has_ui: ui.unwrap_or(!is_production),
        is_production,
        origins,
        api_origins,
        max_payload_bytes,
        server: ServerPolicy {
            scheme: Scheme::Http,
            host: host.unwrap_or_else(|| "127.0.0.1".to_owned()),
            port: port.unwrap_or(DEFAULT_PORT),
        },
    }
}

/// Where that server would be behind itself: its port is the upstream's, never ours.
pub(in crate::config) fn refuse_loop(
    settings: &Settings,
    upstreams: &[UpstreamPolicy],
    listeners: &[ListenerPolicy],
    report: &mut Report,
) {
    let server = &settings.server;
    let is_here = server.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        || server.host == "localhost";
    let is_meant = upstreams.iter().any(|upstream| upstream.servers.contains(server));
    if is_here
        && is_meant
        && listeners.iter().any(|listener| listener.address.port() == Some(server.port))
    {
        report.refuse_with(
            "SERVER_PORT",
            format!("requests would go round: {} is listened on here itself", server.port),
            "SERVER_HOST and SERVER_PORT are the ElizaOS server's; LIMITER_LISTEN is ours",
        );
    }
}

/// A comma list, or `*` alone. Nothing said: no origin.
fn listed(name: &str, text: Option<&str>, report: &mut Report) -> Option<Vec<OriginPattern>> {
    let items = text.into_iter().flat_map(|text| text.split(',')).map(str::trim);
    let items: Vec<&str> = items.filter(|item| !item.is_empty()).collect();
    if items.contains(&"*") {
        if items.len() > 1 {
            report.refuse(name, "\"*\" stands alone: it covers all the others");
        }
        report.risk(name, "scripts of every web page may read the responses, without credentials");
        return None;
    }
    let origins = items.into_iter().filter_map(|item| {
        report.parsed(name, item.strip_suffix('/').unwrap_or(item), values::origin)
    });
    Some(origins.collect())
}

/// What that server takes for yes and for no.
fn boolean(text: &str) -> Result<bool, String> {
    const YES: [&str; 7] = ["YES", "Y", "TRUE", "T", "1", "ON", "ENABLE"];
    const NO: [&str; 7] = ["NO", "N", "FALSE", "F", "0", "OFF", "DISABLE"];
    let is_among = |words: &[&str]| words.iter().any(|word| word.eq_ignore_ascii_case(text));
    if is_among(&YES) {
        Ok(true)
    } else if is_among(&NO) {
        Ok(false)
    } else {
        Err("expected \"true\" or \"false\"".to_owned())
    }
}

/// `2mb`, `1.5mb`, `500kb`, `1024`: units are powers of 1024, in any case.
fn bytes(text: &str) -> Result<u64, String> {
    let expected = "expected a size such as \"2mb\", \"500kb\" or a number of bytes";
    let at = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "kb" => 10,
        "mb" => 20,
        "gb" => 30,
        _ => return Err(expected.to_owned()),
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    // Short enough for the arithmetic below.
    let digits = |text: &str| {
        let usable = (1..=12).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u128>().ok().filter(|_| usable).ok_or(expected)
    };
    let scale = 10_u128.pow(u32::try_from(part.len()).map_err(|_| expected)?.min(12));
    let bytes = (digits(whole)? << shift) + (digits(part)? << shift) / scale;
    match u64::try_from(bytes) {
        Ok(bytes @ 1..) => Ok(bytes),
        _ => Err(expected.to_owned()),
    }
}

/// Where to connect to what listens there: on all addresses means here.
fn host(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(match address {
            IpAddr::V4(address) if address.is_unspecified() => "127.0.0.1".to_owned(),
            IpAddr::V6(address) if address.is_unspecified() => "::1".to_owned(),
            address => address.to_string(),
        });
    }
    match values::host_and_port(text) {
        Some((host, None)) => Ok(host),
        _ => Err("expected a host name or an address, without a port".to_owned()),
    }
}

fn port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(port @ 1..) => Ok(port),
        _ => Err("a port lies between 1 and 65535".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_that_server() {
        for (text, expected) in [
            ("2mb", 2 << 20),
            ("2MB", 2 << 20),
            ("1.5mb", 1_572_864),
            ("500kb", 512_000),
            ("100 kb", 102_400),
            ("100", 100),
            ("100b", 100),
            ("52428800", 52_428_800),
            ("1gb", 1 << 30),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "mb", "2mib", "-1mb", "2mb!", "1e3", "1.2.3kb", "0", "0.00001kb", ".5mb"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn listening_everywhere_is_reached_here() {
        for (text, expected) in [
            ("0.0.0.0", "127.0.0.1"),
            ("::", "::1"),
            ("[::]", "::1"),
            ("10.1.2.3", "10.1.2.3"),
            ("Eliza.internal", "eliza.internal"),
            ("[2001:db8::1]", "2001:db8::1"),
        ] {
            assert_eq!(host(text).as_deref(), Ok(expected));
        }
        assert!(host("a:80").is_err() && host("http://a").is_err() && host("a b").is_err());
        assert!(port("0").is_err() && port("65536").is_err() && port("3000") == Ok(3000));
    }

    #[test]
    fn yes_and_no_in_their_spellings() {
        assert!(boolean("True").unwrap() && boolean("1").unwrap() && boolean("enable").unwrap());
        assert!(!boolean("off").unwrap() && !boolean("0").unwrap());
        assert!(boolean("maybe").is_err());
    }
}
