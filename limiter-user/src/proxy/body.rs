//! Bodies on their way: streamed, bounded and never collected.
//!
//! [`RequestBody`] counts what the client sends and says what is wrong with it; [`ResponseBody`]
//! carries the exchange to the end of the answer.

use std::{
    error::Error as StdError,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{
    checked::{Checked, Fault},
    content::Whole,
    core::InForce,
    exchange::Exchange,
    framing::MAX_TRAILER_BYTES,
    pace::Pace,
    stage::transform,
    upstream::Lease,
    watch::{Phase, Watch},
};
use crate::{clock, credentials::digest::BodyDigest, refusal::Refusal};

type BoxError = Box<dyn StdError + Send + Sync>;

/// A request's body as the upstream gets it, with what its trailers may say.
#[derive(Debug)]
pub(super) struct RequestBody {
    origin: Origin,
    checked: Option<Box<Checked>>,
    left_bytes: u64,
    pace: Pace,
    in_force: Rc<InForce>,
    route: Option<usize>,
    watch: Rc<Watch>,
}

/// Where a request's body comes from.
#[derive(Debug)]
enum Origin {
    Nowhere,
    Client(Incoming),
    /// From memory.
    Whole(Box<Whole>),
}

impl RequestBody {
    pub(super) fn new(incoming: Incoming, exchange: &Exchange) -> Self {
        let uploads = !incoming.is_end_stream();
        exchange.watch.uploading.set(uploads);
        Self::of(Origin::Client(incoming), exchange)
    }

    /// Of one that was collected.
    pub(super) fn whole(whole: Box<Whole>, exchange: &Exchange) -> Self {
        Self::of(Origin::Whole(whole), exchange)
    }

    fn of(origin: Origin, exchange: &Exchange) -> Self {
        let policy = &exchange.in_force.policy;
        Self {
            origin,
            checked: None,
            left_bytes: exchange.max_body_bytes(),
            pace: Pace::new(policy.bounds.min_body_rate, policy.timeouts.body),
            in_force: Rc::clone(&exchange.in_force),
            route: exchange.route,
            watch: Rc::clone(&exchange.watch),
        }
    }

    /// Of a request that has none.
    pub(super) fn none(exchange: &Exchange) -> Self {
        Self::of(Origin::Nowhere, exchange)
    }

    /// The same, of which the last part goes on only if all of it has this digest; `beginning` was
    /// read before, and is part of the digest.
    pub(super) fn checked(mut self, digest: BodyDigest, beginning: Option<Whole>) -> Self {
        self.checked = Some(Box::new(Checked::new(digest, beginning)));
        self
    }

    /// The deadlines of its request.
    pub(super) fn watch(&self) -> &Rc<Watch> {
        &self.watch
    }

    fn fail(
        &self,
        refusal: Refusal,
        what: &'static str,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.watch.body_fault.set(Some(refusal));
        Poll::Ready(Some(Err(what.into())))
    }

    /// It is the client's turn to send, or the upstream's to take. The deadline is theirs in turn,
    /// until there is a response: from then on it is that of the response.
    fn waits(&mut self, waits: bool) {
        let changed = self.watch.awaits_body.replace(waits) != waits;
        if self.watch.phase() == Phase::Request && (changed || !waits) {
            let now_ns = clock::coarse_monotonic_ns();
            self.pace.stop_waiting(|| now_ns);
            let limit =
                if waits { self.pace.wait(now_ns) } else { self.in_force.policy.timeouts.upstream };
            self.watch.set_deadline_from(now_ns, limit);
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if matches!(self.origin, Origin::Client(_)) {
            self.watch.uploading.set(false);
        }
    }
}

impl RequestBody {
    /// What comes, as it comes.
    fn poll_origin(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let incoming = match &mut self.origin {
            Origin::Nowhere => return Poll::Ready(None),
            Origin::Whole(whole) => {
                let data = std::mem::take(&mut whole.data);
                let frame = if data.is_empty() {
                    whole.trailers.take().map(Frame::trailers)
                } else {
                    Some(Frame::data(data))
                };
                return Poll::Ready(frame.map(Ok));
            }
            Origin::Client(incoming) => incoming,
        };
        let frame = match Pin::new(incoming).poll_frame(context) {
            Poll::Pending => {
                self.waits(true);
                return Poll::Pending;
            }
            Poll::Ready(frame) => frame,
        };
        self.waits(false);
        match frame {
            None => Poll::Ready(None),
            Some(Err(error)) => {
                let violation = self.watch.violation.get();
                let refusal = violation.unwrap_or_else(|| blame(&error));
                self.fail(refusal, "the request body ended early")
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
                    let Some(left) = self.left_bytes.checked_sub(length) else {
                        return self.fail(Refusal::BodyTooLarge, "the request body is too large");
                    };
                    self.left_bytes = left;
                    self.pace.earn(data.len());
                    Poll::Ready(Some(Ok(Frame::data(data))))
                }
                Err(frame) => match frame.into_trailers() {
                    // HTTP/1 is counted by the framing.
                    Ok(trailers) if bytes_of(&trailers) > MAX_TRAILER_BYTES => {
                        self.fail(Refusal::HeadTooLarge, "the trailers are too large")
                    }
                    Ok(mut trailers) => {
                        let policy = &*self.in_force.policy;
                        let route = self.route.map(|index| &policy.routes[index]);
                        transform::trailers(policy, route, &mut trailers);
                        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
                    }
                    Err(_) => Poll::Ready(None),
                },
            },
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.checked.take() {
            None => self.poll_origin(context),
            Some(mut checked) => {
                let polled = checked.poll(|| self.poll_origin(context));
                self.checked = Some(checked);
                match ready!(polled) {
                    Some(Err(Fault::Wrong)) => {
                        self.fail(Refusal::InvalidCredential, Checked::WRONG)
                    }
                    Some(Err(Fault::Body(error))) => Poll::Ready(Some(Err(error))),
                    Some(Ok(frame)) => Poll::Ready(Some(Ok(frame))),
                    None => Poll::Ready(None),
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        if self.checked.is_some() {
            return false;
        }
        match &self.origin {
            Origin::Nowhere => true,
            Origin::Client(incoming) => incoming.is_end_stream(),
            Origin::Whole(whole) => whole.data.is_empty() && whole.trailers.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.origin {
            Origin::Nowhere => SizeHint::with_exact(0),
            Origin::Client(incoming) if let Some(checked) = &self.checked => {
                let (coming, kept) = (incoming.size_hint(), checked.kept_bytes());
                let mut hint = SizeHint::new();
                hint.set_lower(coming.lower() + kept);
                if let Some(upper) = coming.upper() {
                    hint.set_upper(upper + kept);
                }
                hint
            }
            Origin::Client(incoming) => incoming.size_hint(),
            Origin::Whole(whole) => SizeHint::with_exact(whole.data.len() as u64),
        }
    }
}

fn bytes_of(trailers: &HeaderMap) -> usize {
    trailers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

/// A chunk that cannot be read is the client's doing; a body cut off may be the network's.
fn blame(error: &hyper::Error) -> Refusal {
    let mut source = StdError::source(error);
    while let Some(cause) = source {
        let malformed = cause.downcast_ref::<io::Error>().is_some_and(|error| {
            matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData)
        });
        if malformed {
            return Refusal::MalformedRequest;
        }
        source = cause.source();
    }
    Refusal::Timeout
}

/// Where a response's body comes from.
#[derive(Debug)]
pub(super) enum Source {
    /// From here.
    Fixed(Option<Bytes>),
    /// From an upstream, whose connection goes back to its pool at the end.
    Upstream {
        body: Incoming,
        lease: Lease,
        /// What was read of it already.
        early: Option<Box<Frame<Bytes>>>,
    },
}

/// A response's body, with its exchange.
#[derive(Debug)]
pub(super) struct ResponseBody {
    source: Source,
    /// The upstream is to send more; its deadline runs since then, however often it is asked.
    awaits_upstream: bool,
    /// The upstream sent all of it.
    is_whole: bool,
    /// It broke off: told when what came before is on its way to the client.
    broken: Option<hyper::Error>,
    exchange: Box<Exchange>,
}

impl ResponseBody {
    pub(super) fn new(source: Source, exchange: Box<Exchange>) -> Self {
        Self { source, awaits_upstream: false, is_whole: false, broken: None, exchange }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        if let Some(error) = this.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        match &mut this.source {
            Source::Fixed(bytes) => {
                let bytes = bytes.take().filter(|bytes| !bytes.is_empty());
                this.exchange.sent_bytes += bytes.as_ref().map_or(0, Bytes::len) as u64;
                Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
            }
            Source::Upstream { body, lease, early } => {
                let exchange = &mut *this.exchange;
                let watch = &exchange.watch;
                let timeouts = &exchange.in_force.policy.timeouts;
                // Asking for more, the client has taken what it was given.
                exchange.pace.stop_waiting(clock::coarse_monotonic_ns);
                let polled = match early.take() {
                    Some(early) => Poll::Ready(Some(Ok(*early))),
                    None => Pin::new(body).poll_frame(context),
                };
                let Poll::Ready(frame) = polled else {
                    if !std::mem::replace(&mut this.awaits_upstream, true) {
                        watch.set_deadline(timeouts.upstream);
                    }
                    return Poll::Pending;
                };
                this.awaits_upstream = false;
                let length = match &frame {
                    None => {
                        this.is_whole = true;
                        0
                    }
                    Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
                    Some(Err(_)) => {
                        lease.broke();
                        // What was wrong with the request's body explains the failure.
                        let fault = watch.violation.get().or(watch.body_fault.get());
                        exchange.give_up(fault.unwrap_or(Refusal::UpstreamFailed));
                        // An error drops what hyper has not sent yet, the head too.
                        this.broken = frame.and_then(Result::err);
                        context.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                };
                exchange.sent_bytes += length as u64;
                exchange.pace.earn(length);
                let now_ns = clock::coarse_monotonic_ns();
                watch.set_deadline_from(now_ns, exchange.pace.wait(now_ns));
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Fixed(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Source::Upstream { body, early, .. } => early.is_none() && body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Fixed(bytes) => {
                let length = bytes.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX))
            }
            // One of which something was read has no known length.
            Source::Upstream { body, .. } => body.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if self.exchange.watch.is_expired() {
            let stalled = self.awaits_upstream;
            self.exchange.give_up(if stalled {
                Refusal::UpstreamTimeout
            } else {
                Refusal::Timeout
            });
        }
        if let Source::Upstream { body, lease, early: None } = &mut self.source
            && (self.is_whole || body.is_end_stream())
            && !self.exchange.watch.uploading.get()
        {
            lease.give_back();
        }
    }
}
