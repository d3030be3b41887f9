//! A body that is checked as it streams: its last part is kept back until all of it is known to be
//! what was signed, so that nobody gets the whole of another one.

use std::{
    collections::VecDeque,
    task::{Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

use super::content::Whole;
use crate::credentials::digest::BodyDigest;

/// What is known of it so far.
#[derive(Debug)]
pub(super) struct Checked {
    /// `None` once it was right.
    digest: Option<BodyDigest>,
    /// Read before, and part of the digest.
    beginning: Option<Whole>,
    /// The last part so far.
    kept: Option<Bytes>,
    /// What may go on.
    ready: VecDeque<Frame<Bytes>>,
}

/// Why it does not go on.
#[derive(Debug)]
pub(super) enum Fault<E> {
    /// It is not what was signed.
    Wrong,
    /// It does not come.
    Body(E),
}

impl Checked {
    /// `digest` is that of `beginning` so far.
    pub(super) fn new(digest: BodyDigest, beginning: Option<Whole>) -> Self {
        Self { digest: Some(digest), beginning, kept: None, ready: VecDeque::new() }
    }

    /// What is said of a body that is another one.
    pub(super) const WRONG: &str = "the request body is not what was signed";

    /// The next part that may go on, of what `come` says that comes.
    pub(super) fn poll<E>(
        &mut self,
        mut come: impl FnMut() -> Poll<Option<Result<Frame<Bytes>, E>>>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault<E>>>> {
        loop {
            let beginning = self.beginning.take().map(|whole| Frame::data(whole.data));
            if let Some(frame) = beginning.or_else(|| self.ready.pop_front()) {
                return Poll::Ready(Some(Ok(frame)));
            }
            if self.digest.is_none() {
                return Poll::Ready(None);
            }
            let trailers = match ready!(come()).transpose().map_err(Fault::Body)? {
                None => None,
                Some(frame) => match frame.into_data() {
                    Ok(data) => {
                        self.take(data);
                        continue;
                    }
                    Err(frame) => frame.into_trailers().ok(),
                },
            };
            if !self.end(trailers) {
                return Poll::Ready(Some(Err(Fault::Wrong)));
            }
        }
    }

    /// Bytes that came and did not go on.
    pub(super) fn kept_bytes(&self) -> u64 {
        let ready = self.ready.iter().filter_map(Frame::data_ref).map(Bytes::len);
        let others = [&self.beginning.as_ref().map(|whole| &whole.data), &self.kept.as_ref()];
        let others = others.into_iter().flatten().map(|bytes| bytes.len());
        (ready.sum::<usize>() + others.sum::<usize>()) as u64
    }

    /// The next part came.
    fn take(&mut self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        if let Some(digest) = &mut self.digest {
            digest.update(&data);
        }
        self.ready.extend(self.kept.replace(data).map(Frame::data));
    }

    /// It ended; whether all of it is right.
    fn end(&mut self, trailers: Option<HeaderMap>) -> bool {
        let is_right = self.digest.take().is_none_or(BodyDigest::is_right);
        if is_right {
            self.ready.extend(self.kept.take().map(Frame::data));
            self.ready.extend(trailers.map(Frame::trailers));
        }
        is_right
    }
}
