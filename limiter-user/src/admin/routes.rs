//! One request on the control socket to one answer; what is not a route is refused by name.

use std::{
    convert::Infallible,
    net::IpAddr,
    ops::RangeInclusive,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Serialize;
use tokio::sync::{Semaphore, mpsc};

use super::{
    Backend,
    follow::Wish,
    query::{Query, mistake},
    view::{
        BanRequest, DetachView, Failure, PacketQuery, SourceSort, StatusView, UnbanView,
        parse_prefix,
    },
};
use crate::{
    events::filter::{self, Filter},
    policy::EventFormat,
};

/// Longest request body.
const MAX_BODY_BYTES: usize = 1 << 20;

/// How long a request body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Ban lines handled before other tasks of the agent get their turn.
const LINES_AT_ONCE: usize = 64;

const DEFAULT_SOURCES: usize = 50;

/// How long a reload may wait to be confirmed.
const CONFIRM_SECONDS: RangeInclusive<u64> = 1..=86_400;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const JSON_LINES: HeaderValue = HeaderValue::from_static("application/x-ndjson");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared<B> {
    pub(super) backend: Rc<B>,
    /// Places for followers of events.
    pub(super) followers: Arc<Semaphore>,
}

/// A body that is there, or one that goes on.
#[derive(Debug)]
pub(super) enum Answer {
    Whole(Full<Bytes>),
    Lines(mpsc::Receiver<Bytes>),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(cx),
            Self::Lines(lines) => {
                lines.poll_recv(cx).map(|line| line.map(|line| Ok(Frame::data(line))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(body) if body.is_end_stream())
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Lines(_) => http_body::SizeHint::default(),
        }
    }
}

/// Answers one request.
pub(super) async fn answer<B: Backend>(
    shared: &Shared<B>,
    request: Request<Incoming>,
) -> Response<Answer> {
    let allowed: &[Method] = match request.uri().path() {
        "/v1/status" | "/v1/sources" | "/v1/why" | "/v1/events" | "/healthz" | "/readyz" => {
            &[Method::GET]
        }
        "/v1/bans" => &[Method::GET, Method::POST, Method::DELETE],
        "/v1/reload" | "/v1/reload/confirm" | "/v1/detach" | "/v1/explain" => &[Method::POST],
        _ => {
            return failure(&Failure {
                status: 404,
                message: "no such path; see /v1/status, /v1/sources, /v1/bans, /v1/why, \
                          /v1/explain, /v1/events, /v1/reload, /v1/reload/confirm, /v1/detach, \
                          /healthz, /readyz"
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
        "/v1/events" => events(shared, query),
        "/v1/sources" => {
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
            Ok(json(&backend.sources(sort, limit.unwrap_or(DEFAULT_SOURCES))?))
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
            unban(backend, prefix, all).map(|view| json(&view))
        }
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

fn events<B: Backend>(shared: &Shared<B>, mut query: Query) -> Result<Response<Answer>, Failure> {
    let format = match query.one("format")?.as_deref() {
        None | Some("json") => EventFormat::Json,
        Some("text") => EventFormat::Text,
        Some(other) => return Err(mistake("format", other, "json or text")),
    };
    let kinds = query.all("kind");
    let source = query.one("source")?;
    let follow = query.parsed("follow", "true or false")?.unwrap_or(true);
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
    let wish = Wish { filter: Filter { kinds, source }, format };
    let form = match format {
        EventFormat::Json => JSON_LINES,
        EventFormat::Text => TEXT,
    };
    let stream = shared.backend.events();
    if !follow {
        return Ok(whole(StatusCode::OK, form, wish.recent(stream).into()));
    }
    let place = Arc::clone(&shared.followers).try_acquire_owned().map_err(|_| Failure {
        status: 503,
        message: "too many readers follow events already".into(),
    })?;
    Ok(response(StatusCode::OK, form, Answer::Lines(wish.follow(stream, place))))
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
    Ok(UnbanView { lifted })
}

/// One object gets its own answer; JSON lines get a line each, in order.
async fn ban<B: Backend>(
    backend: &B,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Failure> {
    let lines_asked = request.headers().get(header::CONTENT_TYPE) == Some(&JSON_LINES);
    let body = body(request.into_body()).await?;
    let lines = || {
        body.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty())
    };
    // Several lines of which the first is a whole document: not one object over several lines.
    let several = lines().nth(1).is_some()
        && lines()
            .next()
            .is_some_and(|line| serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok());
    if !lines_asked && !several {
        return one_ban(backend, &body).map(|view| json(&view));
    }
    let mut answers = Vec::new();
    for (number, line) in lines().enumerate() {
        let result = match one_ban(backend, line) {
            Ok(view) => serde_json::to_writer(&mut answers, &view),
            Err(failure) => serde_json::to_writer(&mut answers, &failure),
        };
        result.map_err(|error| Failure::internal(error.to_string()))?;
        answers.push(b'\n');
        if number % LINES_AT_ONCE == LINES_AT_ONCE - 1 {
            tokio::task::yield_now().await;
        }
    }
    Ok(whole(StatusCode::OK, JSON_LINES, answers.into()))
}

fn one_ban<B: Backend>(backend: &B, json: &[u8]) -> Result<super::view::BanView, Failure> {
    let request: BanRequest = serde_json::from_slice(json)
        .map_err(|error| Failure::invalid(format!("not a ban: {error}")))?;
    backend.ban(&request)
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

fn json(view: &impl Serialize) -> Response<Answer> {
    match serde_json::to_vec(view) {
        Ok(body) => whole(StatusCode::OK, JSON, body.into()),
        Err(error) => failure(&Failure::internal(error.to_string())),
    }
}

/// A failure as its JSON document.
pub(super) fn failure(failure: &Failure) -> Response<Answer> {
    let status = StatusCode::from_u16(failure.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    whole(status, JSON, serde_json::to_vec(failure).unwrap_or_default().into())
}

fn whole(status: StatusCode, form: HeaderValue, body: Bytes) -> Response<Answer> {
    response(status, form, Answer::Whole(Full::new(body)))
}

fn response(status: StatusCode, form: HeaderValue, body: Answer) -> Response<Answer> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, form);
    response
}
