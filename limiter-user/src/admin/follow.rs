//! `GET /v1/events`: past events, or a body that goes on for as long as somebody reads it.
//!
//! A reader that is too slow loses events, is told how many, and goes on.

use std::sync::Arc;

use hyper::body::Bytes;
use tokio::sync::mpsc;

use crate::{
    clock,
    events::{
        Event, Lifecycle,
        filter::Filter,
        json::{self, Position},
        stream::{EventStream, Followed},
        text,
    },
    policy::EventFormat,
};

/// Lines under way to one reader, beside what the socket holds.
const LINES_AHEAD: usize = 64;

/// What a reader asked for.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) filter: Filter,
    pub(super) format: EventFormat,
}

impl Wish {
    /// What happened lately, numbered from 1 within this answer.
    pub(super) fn recent(&self, events: &EventStream) -> Vec<u8> {
        let mut lines = Vec::new();
        for (sequence, event) in (1..).zip(events.recent()) {
            if self.filter.admits(&event) {
                lines.extend_from_slice(&self.line(events.run(), sequence, &event));
            }
        }
        lines
    }

    /// What happens from now on. `place` is given back when the reader is gone.
    pub(super) fn follow<P: 'static>(
        self,
        events: &EventStream,
        place: P,
    ) -> mpsc::Receiver<Bytes> {
        let (lines, reader) = mpsc::channel(LINES_AHEAD);
        let mut source = events.follow();
        let run: Arc<str> = events.run().into();
        tokio::task::spawn_local(async move {
            let _place = place;
            loop {
                let followed = tokio::select! {
                    () = lines.closed() => break,
                    followed = source.next() => followed,
                };
                let line = match followed {
                    None => break,
                    Some(Followed::Event(sequence, event)) => {
                        if !self.filter.admits(&event) {
                            continue;
                        }
                        self.line(&run, sequence, &event)
                    }
                    Some(Followed::Lost(sequence, count)) => {
                        let detail = "this reader was too slow";
                        let event = Event {
                            count,
                            ..Event::lifecycle(clock::unix_ns(), Lifecycle::EventsLost, detail)
                        };
                        self.line(&run, sequence, &event)
                    }
                };
                if lines.send(line).await.is_err() {
                    break;
                }
            }
        });
        reader
    }

    fn line(&self, run: &str, sequence: u64, event: &Event) -> Bytes {
        let mut line = match self.format {
            EventFormat::Text => text::line(event).to_string(),
            EventFormat::Json => json::line(event, Position { run, sequence }),
        };
        line.push('\n');
        Bytes::from(line)
    }
}
