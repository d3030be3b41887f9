//! One request on the control socket to one answer; what is not a route is refused by name.

mod answer;

use std::{net::IpAddr, ops::RangeInclusive, rc::Rc, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Incoming};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tokio::sync::Semaphore;

pub(super) use self::answer::{Answer, failure};
use self::answer::{JSON, JSON_LINES, TEXT, json, response, whole};
use super::{
    Backend, accept,
    bulk::{self, Lines},
    follow::{Form, Wish, resume},
    lists, metrics,
    query::{Query, mistake},
    view::{
        DetachView, Failure, ListKind, ListOrigin, PacketQuery, SourceSort, StatusView, UnbanView,
        parse_prefix,
    },
};
use crate::{
    clock,
    events::{
        filter::{self, Filter},
        moment,
        stream::{RECENT_EVENTS, Since},
    },
};

/// Longest request body.
const MAX_BODY_BYTES: usize = 1 << 20;

/// How long a request body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

const DEFAULT_SOURCES: usize = 50;

/// How long a reload may wait to be confirmed.
const CONFIRM_SECONDS: RangeInclusive<u64> = 1..=86_400;

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared<B> {
    pub(super) backend: Rc<B>,
    /// Places for followers of events.
    pub(super) followers: Arc<Semaphore>,
}

/// Answers one request.
pub(super) async fn answer<B: Backend>(
    shared: &Shared<B>,
    request: Request<Incoming>,
) -> Response<Answer> {
    let allowed: &[Method] = match request.uri().path() {
        "/v1/status" | "/v1/sources" | "/v1/top" | "/v1/why" | "/v1/events" | "/metrics"
        | "/healthz" | "/readyz" => &[Method::GET],
        "/v1/bans" | "/v1/lists" => &[Method::GET, Method::POST, Method::DELETE],
        "/v1/reload" | "/v1/reload/confirm" | "/v1/detach" | "/v1/explain" => &[Method::POST],
        _ => {
            return failure(&Failure {
                status: 404,
                message: "no such path; see /v1/status, /v1/sources, /v1/top, /v1/bans, /v1/lists, \
                          /v1/why, /v1/explain, /v1/events, /v1/reload, /v1/reload/confirm, /v1/detach, \
                          /metrics, /healthz, /readyz"
                    .into(),
            });
        }
    };
    if !allowed.contains(request.method()) {
        let allowed = allowed.iter().map(Method::as_str).collect::<Vec<_>>();
        let allowed = allowed.join(", ");
        let mut response = failure(&Failure {
            status: 405,
            message: format!("expected one of the methods {allowed}"),
        });
        if let Ok(value) = HeaderValue::from_str(&allowed) {
            response.headers_mut().insert(header::ALLOW, value);
        }
        return response;
    }
    routed(shared, request).await.unwrap_or_else(|error| failure(&error))
}

async fn routed<B: Backend>(
    shared: &Shared<B>,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Failure> {
    let backend = &*shared.backend;
    let mut query = Query::parse(request.uri().query())?;
    let is_get = request.method() == Method::GET;
    match request.uri().path() {
        "/v1/events" => events(shared, query, request.headers()),
        path @ ("/v1/sources" | "/v1/top") => {
            let labels = SourceSort::ALL.map(SourceSort::label).join(", ");
            let sort = match query.one("sort")? {
                None => SourceSort::default(),
                Some(value) => SourceSort::ALL
                    .into_iter()
                    .find(|sort| sort.label() == value)
                    .ok_or_else(|| mistake("sort", &value, &format!("one of {labels}")))?,
            };
            let limit = query.parsed("limit", "a number")?;
            query.finish()?;
            let limit = limit.unwrap_or(DEFAULT_SOURCES);
            if path == "/v1/top" {
                return Ok(json(&backend.top(sort, limit)?));
            }
            Ok(json(&backend.sources(sort, limit).await?))
        }
        "/v1/why" => {
            let source: Option<IpAddr> = query.parsed("source", "an IP address")?;
            let protocol = query.parsed("proto", "tcp, udp or icmp")?;
            let port = query.parsed("port", "a port number")?;
            query.finish()?;
            let packet = match (protocol, port) {
                (Some(protocol), port) => {
                    Some(PacketQuery { protocol, port: port.unwrap_or_default() })
                }
                (None, Some(_)) => return Err(Failure::invalid("`port` needs `proto`")),
                (None, None) => None,
            };
            let source = source.ok_or_else(|| Failure::invalid("`source` is missing"))?;
            Ok(json(&backend.why(source.to_canonical(), packet)?))
        }
        "/v1/bans" if request.method() == Method::DELETE => {
            let prefix = query.one("prefix")?;
            let all = query.parsed("all", "true or false")?.unwrap_or(false);
            query.finish()?;
            let mut view = unban(backend, prefix, all)?;
            view.not_saved = backend.saved().await.err();
            Ok(json(&view))
        }
        "/v1/lists" => lists_of(backend, query, request).await,
        "/v1/explain" => {
            query.finish()?;
            let bytes = body(request.into_body()).await?;
            let asked = serde_json::from_slice(&bytes)
                .map_err(|error| Failure::invalid(format!("not a request to explain: {error}")))?;
            Ok(json(&backend.explain(&asked)?))
        }
        "/v1/reload" => {
            let seconds: Option<u64> = query.parsed("confirm", "a number of seconds")?;
            query.finish()?;
            if let Some(wrong) = seconds.filter(|seconds| !CONFIRM_SECONDS.contains(seconds)) {
                let (least, most) = (CONFIRM_SECONDS.start(), CONFIRM_SECONDS.end());
                let expected = format!("{least} to {most} seconds");
                return Err(mistake("confirm", &wrong.to_string(), &expected));
            }
            Ok(json(&backend.reload(seconds.map(Duration::from_secs)).await?))
        }
        "/v1/bans" if !is_get => {
            query.finish()?;
            ban(backend, request).await
        }
        path => {
            query.finish()?;
            match path {
                "/v1/status" => Ok(json(&backend.status())),
                "/metrics" => Ok(scrape(&backend.status(), request.headers())),
                "/v1/bans" => Ok(json(&backend.bans()?)),
                "/v1/reload/confirm" => Ok(json(&backend.confirm_reload()?)),
                "/v1/detach" => {
                    let interfaces = backend.detach()?;
                    Ok(json(&DetachView { interfaces }))
                }
                "/healthz" => Ok(whole(StatusCode::OK, TEXT, "ok\n".into())),
                _ => Ok(ready(&backend.status())),
            }
        }
    }
}

/// Entries, or a change of them. `replace=LIST` makes the saved entries of that list (with
/// `runtime=true` the volatile ones) exactly those of the body.
async fn lists_of<B: Backend>(
    backend: &B,
    mut query: Query,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Failure> {
    let mut kind = |name: &str| -> Result<Option<ListKind>, Failure> {
        let Some(label) = query.one(name)? else { return Ok(None) };
        let found = ListKind::ALL.into_iter().find(|kind| kind.label() == label);
        found.map(Some).ok_or_else(|| mistake(name, &label, "allow, deny or trust"))
    };
    if request.method() == Method::GET {
        let only = kind("list")?;
        query.finish()?;
        let parts = lists::entries(backend, only);
        return Ok(response(StatusCode::OK, JSON, Answer::Lines(parts)));
    }
    let removes = request.method() == Method::DELETE;
    let replaces = if removes { None } else { kind("replace")? };
    let is_volatile =
        replaces.is_some() && query.parsed("runtime", "true or false")?.unwrap_or(false);
    query.finish()?;
    let origin = if is_volatile { ListOrigin::Runtime } else { ListOrigin::Saved };
    let replaces = replaces.map(|kind| (kind, origin));
    Ok(json(&lists::change(backend, request.into_body(), removes, replaces).await?))
}

/// The metrics: `OpenMetrics`, unless the scraper prefers the older text form.
fn scrape(status: &StatusView, headers: &HeaderMap) -> Response<Answer> {
    let is_older =
        accept::wants(headers, "text/plain") && !accept::wants(headers, metrics::OPENMETRICS);
    let (form, text) = if is_older {
        (metrics::PROMETHEUS_TYPE, metrics::prometheus(status))
    } else {
        (metrics::OPENMETRICS_TYPE, metrics::openmetrics(status))
    };
    match text {
        Ok(text) => whole(StatusCode::OK, HeaderValue::from_static(form), text.into()),
        Err(error) => failure(&Failure::internal(error.to_string())),
    }
}

/// Ready: started, and where requests are to be served, there is somebody to serve them. Running
/// degraded by configuration (`required = false`) does not take a host out of service.
fn ready(status: &StatusView) -> Response<Answer> {
    let serves = status.listeners.is_empty() || status.proxy_pid.is_some();
    let code = if status.state != "starting" && serves {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    whole(code, TEXT, format!("{}\n", status.state).into())
}

fn events<B: Backend>(
    shared: &Shared<B>,
    mut query: Query,
    headers: &HeaderMap,
) -> Result<Response<Answer>, Failure> {
    let stream = shared.backend.events();
    let form = match query.one("format")?.as_deref() {
        None if accept::wants(headers, "text/event-stream") => Form::ServerSent,
        None | Some("json") => Form::Json,
        Some("text") => Form::Text,
        Some("sse") => Form::ServerSent,
        Some(other) => return Err(mistake("format", other, "json, text or sse")),
    };
    let kinds = query.all("kind");
    let source = query.one("source")?;
    let follow = query.parsed("follow", "true or false")?.unwrap_or(true);
    let since = query.one("since")?;
    query.finish()?;
    if let Some(kind) = kinds.iter().find(|kind| !filter::pattern_is_known(kind)) {
        let labels = filter::labels().collect::<Vec<_>>().join(", ");
        let expected = format!("one of {labels}, or the beginning of some and `*`");
        return Err(mistake("kind", kind, &expected));
    }
    let source = source
        .map(|source| {
            parse_prefix(&source).map_err(|expected| mistake("source", &source, &expected))
        })
        .transpose()?;
    let since = match since {
        Some(text) => {
            let parsed = moment::parse(&text, clock::unix_ns());
            Some(Since::Moment(parsed.ok_or_else(|| mistake("since", &text, moment::EXPECTED))?))
        }
        None => headers
            .get("last-event-id")
            .and_then(|id| resume(stream.run(), id.to_str().ok()?))
            .or_else(|| (!follow).then_some(Since::Last(RECENT_EVENTS))),
    };
    let wish = Wish { filter: Filter { kinds, source }, form, since };
    let content_type = match form {
        Form::Json => JSON_LINES,
        Form::Text => TEXT,
        Form::ServerSent => HeaderValue::from_static("text/event-stream"),
    };
    let mut answer = if follow {
        let place = Arc::clone(&shared.followers).try_acquire_owned().map_err(|_| Failure {
            status: 503,
            message: "too many readers follow events already".into(),
        })?;
        response(StatusCode::OK, content_type, Answer::Lines(wish.follow(stream, place)))
    } else {
        whole(StatusCode::OK, content_type, wish.recent(stream).into())
    };
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(answer)
}

fn unban<B: Backend>(backend: &B, prefix: Option<String>, all: bool) -> Result<UnbanView, Failure> {
    let lifted = match (prefix, all) {
        (Some(prefix), false) => {
            let parsed =
                parse_prefix(&prefix).map_err(|expected| mistake("prefix", &prefix, &expected))?;
            backend.unban(parsed)?
        }
        (None, true) => {
            backend.unban(IpNet::V4(Ipv4Net::default()))?
                + backend.unban(IpNet::V6(Ipv6Net::default()))?
        }
        _ => return Err(Failure::invalid("expected either `prefix=` or `all=true`")),
    };
    Ok(UnbanView { lifted, not_saved: None })
}

/// One object gets its ban as the answer, JSON lines how many were accepted and which were not.
async fn ban<B: Backend>(
    backend: &B,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Failure> {
    let lines_asked = request.headers().get(header::CONTENT_TYPE) == Some(&JSON_LINES);
    let mut lines = Lines::new(request.into_body());
    if !lines_asked && !lines.are_several().await? {
        let mut view = bulk::one(backend, &lines.whole().await?)?;
        view.not_saved = backend.saved().await.err();
        return Ok(json(&view));
    }
    let view = bulk::all(backend, lines).await?;
    let mut response = json(&view);
    *response.status_mut() = match view.refusals.first() {
        None => StatusCode::OK,
        Some(_) if view.accepted > 0 => StatusCode::MULTI_STATUS,
        Some(first) => StatusCode::from_u16(first.status).unwrap_or(StatusCode::BAD_REQUEST),
    };
    Ok(response)
}

async fn body(body: Incoming) -> Result<Bytes, Failure> {
    let collected = Limited::new(body, MAX_BODY_BYTES).collect();
    match tokio::time::timeout(BODY_TIMEOUT, collected).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(Failure {
            status: 413,
            message: format!("the body is longer than {MAX_BODY_BYTES} bytes"),
        }),
        Ok(Err(error)) => Err(Failure::invalid(format!("the body broke off: {error}"))),
        Err(_) => Err(Failure { status: 408, message: "the body did not arrive in time".into() }),
    }
}
