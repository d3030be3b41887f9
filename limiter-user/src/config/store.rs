//! `[store]`: where limits and bans are kept. Reads the password and the certificates that the
//! server is verified with.

use std::time::Duration;

use super::{
    Scope,
    document::{StoreDocument, Text},
    error::Report,
    secret, upstream, values,
};
use crate::policy::{
    listener::SecretBytes,
    store::{DEFAULT_TIMEOUT, OnFailure, StorePolicy},
};

const EXAMPLE: &str = "url = \"redis://10.0.0.5:6379\"";

/// No request waits longer for the store.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(5);

const SHORTEST_TIMEOUT: Duration = Duration::from_millis(5);

/// `None`: limits and bans stay on this host.
pub(super) fn check(
    written: &StoreDocument,
    scope: &Scope<'_>,
    report: &mut Report,
) -> Option<StorePolicy> {
    let is_shared = report.choice(written.kind.as_ref(), &[("local", false), ("redis", true)], &[]);
    let on_failure = report.choice(
        written.on_failure.as_ref(),
        &[("local", OnFailure::Local), ("open", OnFailure::Open), ("closed", OnFailure::Closed)],
        &[],
    );
    let url = written.url.as_ref().and_then(|url| match server(url.get_ref()) {
        Ok(server) => Some(server),
        Err(why) => {
            report.refuse(url.span(), why);
            None
        }
    });
    let timeout = report.value_or(written.timeout.as_ref(), timeout, DEFAULT_TIMEOUT);
    let user = written.user.as_ref().and_then(|user| report.value(user, user_name));
    if !is_shared {
        say_unused(written, on_failure, report);
        return None;
    }
    let Some(url_key) = &written.url else {
        let place = written.kind.as_ref().map_or(0..0, Text::span);
        report.refuse_with(place, "`url` is missing: where the server is", EXAMPLE);
        return None;
    };
    let password = written
        .password
        .as_ref()
        .and_then(|password| secret::read(password, scope, report))
        .map(|password| SecretBytes::new(password.into_bytes()));
    if let (Some(user), None) = (&written.user, &written.password) {
        report.refuse_with(
            user.span(),
            "a user without a password",
            "password = { env = \"REDIS_PASSWORD\" }",
        );
    }
    let Server { is_tls, host, port, database } = url?;
    let ca = written.ca.as_ref();
    if let (Some(ca), false) = (ca, is_tls) {
        report.refuse(ca.span(), "`url` is not rediss://");
    }
    let roots = upstream::authorities(is_tls, url_key.span().into(), ca, scope, report);
    let is_near = host == "localhost"
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    if !is_tls && !is_near {
        report.risk(
            url_key.span(),
            "anybody on the way can read the password and change limits and bans (rediss:// \
             encrypts)",
        );
    }
    Some(StorePolicy {
        host,
        port,
        database,
        user,
        password,
        roots: is_tls.then_some(roots),
        timeout,
        on_failure,
    })
}

/// Under `local` the other keys are for a later day.
fn say_unused(written: &StoreDocument, on_failure: OnFailure, report: &mut Report) {
    let keys = [&written.url, &written.user, &written.ca, &written.timeout];
    let spans = keys.into_iter().flatten().map(Text::span);
    let on_failure =
        written.on_failure.as_ref().filter(|_| on_failure != OnFailure::Local).map(Text::span);
    let password = written.password.as_ref().map(toml::Spanned::span);
    for span in spans.chain(on_failure).chain(password) {
        report.risk(span, "not used: kind = \"local\" shares nothing");
    }
    if let Some(password) = &written.password {
        secret::refuse_inline(password.span(), password.get_ref(), report);
    }
}

struct Server {
    is_tls: bool,
    host: String,
    port: u16,
    database: u16,
}

/// `redis://HOST[:PORT][/DATABASE]`, or `rediss://`. Never repeated in a message: it may hold a
/// password.
fn server(url: &str) -> Result<Server, String> {
    if url.contains('@') {
        return Err("a URL holds no user or password here: they are keys of their own".to_owned());
    }
    let expected = "expected redis://HOST:PORT or rediss://HOST:PORT, and /NUMBER for a database";
    let (scheme, rest) = url.split_once("://").ok_or(expected)?;
    let is_tls = match scheme.to_ascii_lowercase().as_str() {
        "redis" | "valkey" => false,
        "rediss" | "valkeys" => true,
        _ => return Err(expected.to_owned()),
    };
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let database = match database {
        "" => 0,
        number => number.parse().map_err(|_| expected)?,
    };
    let (host, port) = values::host_and_port(authority).ok_or(expected)?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok(Server { is_tls, host, port: port.unwrap_or(6379), database })
}

fn timeout(text: &str) -> Result<Duration, String> {
    match values::duration(text)? {
        fitting if (SHORTEST_TIMEOUT..=LONGEST_TIMEOUT).contains(&fitting) => Ok(fitting),
        _ => Err("between 5ms and 5s".to_owned()),
    }
}

fn user_name(text: &str) -> Result<String, String> {
    if (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err("expected the name of an ACL user".to_owned())
    }
}
