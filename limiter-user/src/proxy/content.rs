//! The body of a request on its way past the stages: streamed, or looked at as a whole.
//!
//! A body that a stage asks for is collected up to `max_inspected_body`, from one budget for the
//! whole process, and goes upstream from memory. Nothing is read before a stage asks.

use std::{
    pin::pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::Body as _;
use http_body_util::BodyExt as _;

use super::{body::RequestBody, compiled::Compiled, exchange::Exchange, reply::Reply};
use crate::{credentials::digest::BodyDigest, refusal::Refusal};

/// Bytes of bodies that are collected at once, by all cores.
const INSPECTION_BYTES: usize = 64 << 20;

/// What is left for collected bodies.
#[derive(Debug)]
pub(super) struct Budget {
    left_bytes: AtomicUsize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { left_bytes: AtomicUsize::new(INSPECTION_BYTES) }
    }
}

/// A part of the budget, given back when it is dropped.
#[derive(Debug)]
struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Share {
    fn new(budget: &Arc<Budget>) -> Self {
        Self { budget: Arc::clone(budget), bytes: 0 }
    }

    /// Takes so much more; `false` if there is not so much.
    fn grow(&mut self, bytes: usize) -> bool {
        let take = |left: usize| left.checked_sub(bytes);
        let taken =
            self.budget.left_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok();
        if taken {
            self.bytes += bytes;
        }
        taken
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.left_bytes.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

/// A body that was collected.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) data: Bytes,
    /// Those that may be passed on.
    pub(super) trailers: Option<HeaderMap>,
    _share: Share,
}

/// The body of a request that is looked at.
#[derive(Debug)]
pub(super) enum Content {
    /// Not read yet.
    Streaming(RequestBody),
    /// In memory.
    Whole(Box<Whole>),
    /// Of a request that nobody sent. What needs it waits for ever; whether anything did.
    Unsent(bool),
    /// It could not be read.
    None,
}

impl Content {
    /// Whether there is none, as far as that is known before it is read.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Streaming(body) => body.is_end_stream(),
            Self::Whole(whole) => whole.data.is_empty(),
            Self::Unsent(_) | Self::None => true,
        }
    }

    /// As nobody knows it, if nobody does: what is about it is not decided.
    async fn known(&mut self) {
        if let Self::Unsent(is_needed) = self {
            *is_needed = true;
            std::future::pending::<()>().await;
        }
    }

    /// All of its data, read now if it was not before. Refuses a body that is too large to be
    /// looked at, that does not come in time, or for which there is no memory now.
    pub(super) async fn whole(&mut self, policy: &Compiled) -> Result<&Bytes, Reply> {
        self.known().await;
        if let Some(body) = self.take_streaming() {
            if announced(&body).is_some_and(|bytes| bytes > policy.bounds.max_inspected_body_bytes)
            {
                return Err(Refusal::BodyTooLarge.into());
            }
            *self = match Box::pin(collect(policy, body)).await? {
                (whole, None) => Self::Whole(Box::new(whole)),
                (_, Some(_)) => return Err(Refusal::BodyTooLarge.into()),
            };
        }
        match self {
            Self::Whole(whole) => Ok(&whole.data),
            Self::Streaming(_) | Self::Unsent(_) | Self::None => Err(Refusal::Timeout.into()),
        }
    }

    /// Whether its data have this digest. Of one that is too large to be looked at, nobody knows
    /// yet: its end goes upstream only if it is right.
    pub(super) async fn has_digest(
        &mut self,
        policy: &Compiled,
        mut digest: BodyDigest,
    ) -> Result<bool, Reply> {
        self.known().await;
        if let Some(body) = self.take_streaming() {
            let most = policy.bounds.max_inspected_body_bytes;
            if announced(&body).is_some_and(|bytes| bytes > most) {
                *self = Self::Streaming(body.checked(digest, None));
                return Ok(true);
            }
            match Box::pin(collect(policy, body)).await? {
                (whole, None) => *self = Self::Whole(Box::new(whole)),
                (beginning, Some(rest)) => {
                    digest.update(&beginning.data);
                    *self = Self::Streaming(rest.checked(digest, Some(beginning)));
                    return Ok(true);
                }
            }
        }
        if let Self::Whole(whole) = self {
            digest.update(&whole.data);
        }
        Ok(digest.is_right())
    }

    fn take_streaming(&mut self) -> Option<RequestBody> {
        match std::mem::replace(self, Self::None) {
            Self::Streaming(body) => Some(body),
            other => {
                *self = other;
                None
            }
        }
    }

    /// The body as the upstream gets it.
    pub(super) fn into_body(self, exchange: &Exchange) -> RequestBody {
        match self {
            Self::Streaming(body) => body,
            Self::Whole(whole) => RequestBody::whole(whole, exchange),
            Self::Unsent(_) | Self::None => RequestBody::none(exchange),
        }
    }
}

/// How long it says that it is.
fn announced(body: &RequestBody) -> Option<usize> {
    body.size_hint().exact().and_then(|bytes| usize::try_from(bytes).ok())
}

/// Reads a body until it ends or is too large to be looked at; then there is a rest.
async fn collect(
    policy: &Compiled,
    mut body: RequestBody,
) -> Result<(Whole, Option<RequestBody>), Reply> {
    let watch = Rc::clone(body.watch());
    let most = policy.bounds.max_inspected_body_bytes;
    let mut share = Share::new(&policy.inspection);
    let mut data = BytesMut::new();
    let mut trailers = None;
    while data.len() <= most {
        let frame = watch.within(policy.timeouts.body, pin!(body.frame())).await;
        let Some(frame) = frame else {
            return Err(Refusal::Timeout.into());
        };
        match frame.transpose() {
            Ok(None) => return Ok((Whole { data: data.freeze(), trailers, _share: share }, None)),
            Ok(Some(frame)) => match frame.into_data() {
                // What is announced takes no memory, or whoever announces much could hold all of it.
                Ok(bytes) if !share.grow(bytes.len()) => return Err(full()),
                Ok(bytes) => data.extend_from_slice(&bytes),
                Err(frame) => trailers = frame.into_trailers().ok(),
            },
            Err(_) => {
                let fault = watch.violation.get().or(watch.body_fault.get());
                return Err(fault.unwrap_or(Refusal::Timeout).into());
            }
        }
    }
    Ok((Whole { data: data.freeze(), trailers, _share: share }, Some(body)))
}

/// There is no memory for it now.
fn full() -> Reply {
    Reply::overloaded()
}
