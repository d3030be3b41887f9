//! `POST /v1/bans`: one object, or any number of JSON lines, streamed.
//!
//! In: a body; out: how many bans are in force and which lines were refused. Memory is one line
//! and what the socket gave at once, however long the body; other tasks get their turn in between.

use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::{
    Backend,
    view::{BanRequest, BanView, BansView, Failure, RefusedLine},
};

/// Longest body of one object.
const MAX_OBJECT_BYTES: usize = 1 << 20;

/// Longest line of many.
const MAX_LINE_BYTES: usize = 4 << 10;

/// How long the next part of a body may take.
const PART_TIMEOUT: Duration = Duration::from_secs(30);

/// Lines handled before other tasks of the agent get their turn: well below a millisecond.
const LINES_AT_ONCE: u64 = 64;

/// Refused lines that are named in the answer.
const MAX_NAMED: usize = 20;

/// What came of a body, and the rest of it.
#[derive(Debug)]
pub(super) struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
    is_ended: bool,
}

impl Lines {
    pub(super) const fn new(body: Incoming) -> Self {
        Self { body, buffer: Vec::new(), is_ended: false }
    }

    /// Reads on; `false` at the end.
    async fn more(&mut self) -> Result<bool, Failure> {
        while !self.is_ended {
            let Ok(frame) = tokio::time::timeout(PART_TIMEOUT, self.body.frame()).await else {
                let message = "the body did not arrive in time".into();
                return Err(Failure { status: 408, message });
            };
            let Some(frame) = frame else {
                self.is_ended = true;
                break;
            };
            let frame =
                frame.map_err(|error| Failure::invalid(format!("the body broke off: {error}")))?;
            if let Some(bytes) = frame.data_ref() {
                self.buffer.extend_from_slice(bytes);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether it is more than one line, of which the first is a whole document: then it is not
    /// one object over several lines.
    pub(super) async fn are_several(&mut self) -> Result<bool, Failure> {
        loop {
            let text = self.buffer.trim_ascii_start();
            if let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let (first, rest) = text.split_at(end);
                let is_document = || serde_json::from_slice::<serde::de::IgnoredAny>(first).is_ok();
                if !rest.trim_ascii().is_empty() {
                    return Ok(is_document());
                }
            }
            self.bounded()?;
            if !self.more().await? {
                return Ok(false);
            }
        }
    }

    /// All of it, as one object.
    pub(super) async fn whole(mut self) -> Result<Vec<u8>, Failure> {
        loop {
            self.bounded()?;
            if !self.more().await? {
                return Ok(self.buffer);
            }
        }
    }

    /// The next whole lines, without the end of the last one; `None`: there are no more.
    pub(super) async fn next_part(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        loop {
            if let Some(end) = self.buffer.iter().rposition(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(end + 1);
                let mut part = std::mem::replace(&mut self.buffer, rest);
                part.pop();
                return Ok(Some(part));
            }
            if self.buffer.len() > MAX_LINE_BYTES {
                let message = format!("a line is longer than {MAX_LINE_BYTES} bytes");
                return Err(Failure { status: 413, message });
            }
            if !self.more().await? {
                let part = std::mem::take(&mut self.buffer);
                return Ok((!part.is_empty()).then_some(part));
            }
        }
    }

    fn bounded(&self) -> Result<(), Failure> {
        if self.buffer.len() <= MAX_OBJECT_BYTES {
            return Ok(());
        }
        Err(Failure {
            status: 413,
            message: format!("the body is longer than {MAX_OBJECT_BYTES} bytes"),
        })
    }
}

/// One object.
pub(super) fn one<B: Backend>(backend: &B, json: &[u8]) -> Result<BanView, Failure> {
    backend.ban(&parse(json)?)
}

fn parse(json: &[u8]) -> Result<BanRequest, Failure> {
    serde_json::from_slice(json).map_err(|error| Failure::invalid(format!("not a ban: {error}")))
}

/// Bans every line. A body that breaks off is told with what was done until then.
pub(super) async fn all<B: Backend>(backend: &B, mut lines: Lines) -> Result<BansView, Failure> {
    let mut tally = Tally { backend, view: BansView::default(), number: 0 };
    let ended = tally.read(&mut lines).await;
    let Tally { mut view, .. } = tally;
    view.not_saved = backend.saved().await.err();
    match ended {
        Ok(()) => Ok(view),
        Err(Failure { status, message }) => {
            let done = format!("{} bans before that are in force", view.accepted);
            Err(Failure { status, message: format!("{message}; {done}") })
        }
    }
}

struct Tally<'a, B> {
    backend: &'a B,
    view: BansView,
    number: u64,
}

impl<B: Backend> Tally<'_, B> {
    async fn read(&mut self, lines: &mut Lines) -> Result<(), Failure> {
        // The rest of a line that was too long is not the next one.
        let mut is_skipping = false;
        loop {
            let mut start = 0;
            while let Some(length) = lines.buffer[start..].iter().position(|byte| *byte == b'\n') {
                let line = &lines.buffer[start..start + length];
                if !std::mem::take(&mut is_skipping) {
                    self.line(line);
                }
                start += length + 1;
                if self.number.is_multiple_of(LINES_AT_ONCE) {
                    self.pause().await;
                }
            }
            lines.buffer.drain(..start);
            if is_skipping {
                lines.buffer.clear();
            } else if lines.buffer.len() > MAX_LINE_BYTES {
                self.line(&lines.buffer);
                is_skipping = true;
                lines.buffer.clear();
            }
            if !lines.more().await? {
                break;
            }
        }
        if !is_skipping {
            self.line(&lines.buffer);
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8]) {
        self.number += 1;
        let line = line.trim_ascii();
        if line.is_empty() {
            return;
        }
        let done = if line.len() > MAX_LINE_BYTES {
            Err(Failure {
                status: 413,
                message: format!("the line is longer than {MAX_LINE_BYTES} bytes"),
            })
        } else {
            parse(line).and_then(|request| self.backend.add_ban(&request))
        };
        match done {
            Ok(()) => self.view.accepted += 1,
            Err(Failure { status, message }) => {
                self.view.refused += 1;
                if self.view.refusals.len() < MAX_NAMED {
                    let line = self.number;
                    self.view.refusals.push(RefusedLine { line, status, message });
                }
            }
        }
    }

    /// Others get their turn; the disk gets to keep up.
    async fn pause(&self) {
        tokio::task::yield_now().await;
        if self.backend.must_wait() {
            // Whether it could is asked again at the end.
            drop(self.backend.saved().await);
        }
    }
}
