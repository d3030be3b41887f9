//! Answers of the control socket: a document that is there, or lines that go on.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderValue, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::Full;
use hyper::body::Bytes;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::admin::view::Failure;

pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub(super) const JSON_LINES: HeaderValue = HeaderValue::from_static("application/x-ndjson");
pub(super) const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// A body that is there, or one that goes on.
#[derive(Debug)]
pub(in crate::admin) enum Answer {
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

/// A view as its JSON document.
pub(super) fn json(view: &impl Serialize) -> Response<Answer> {
    match serde_json::to_vec(view) {
        Ok(body) => whole(StatusCode::OK, JSON, body.into()),
        Err(error) => failure(&Failure::internal(error.to_string())),
    }
}

/// A failure as its JSON document.
pub(in crate::admin) fn failure(failure: &Failure) -> Response<Answer> {
    let status = StatusCode::from_u16(failure.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    whole(status, JSON, serde_json::to_vec(failure).unwrap_or_default().into())
}

pub(super) fn whole(status: StatusCode, form: HeaderValue, body: Bytes) -> Response<Answer> {
    response(status, form, Answer::Whole(Full::new(body)))
}

pub(super) fn response(status: StatusCode, form: HeaderValue, body: Answer) -> Response<Answer> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, form);
    response
}
