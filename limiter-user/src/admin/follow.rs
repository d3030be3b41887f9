//! `GET /v1/events`: past events, then perhaps a body that goes on for as long as somebody reads it.
//!
//! A reader that is too slow loses events, is told how many, and goes on. What is no longer kept
//! is told first.

use std::{sync::Arc, time::Duration};

use hyper::body::Bytes;
use tokio::sync::mpsc;

use crate::{
    clock,
    events::{
        Event, Lifecycle,
        filter::Filter,
        json::{self, Position},
        stream::{EventStream, Followed, Follower, Past, Since},
        text,
    },
};

/// Lines under way to one reader, beside what the socket holds.
const LINES_AHEAD: usize = 64;

/// How long a stream of server-sent events may be silent: proxies in between give up at a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How events are written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Form {
    /// A line for people each.
    Text,
    /// A JSON document a line each.
    Json,
    /// `text/event-stream` (WHATWG): JSON documents, the id being the place to go on from.
    ServerSent,
}

/// What a reader asked for.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) filter: Filter,
    pub(super) form: Form,
    /// `None`: only what happens from now on.
    pub(super) since: Option<Since>,
}

impl Wish {
    /// What happened lately, numbered from 1 within this answer.
    pub(super) fn recent(&self, events: &EventStream) -> Vec<u8> {
        let since = self.since.unwrap_or(Since::Last(0));
        let mut lines = Vec::new();
        let mut writer = Writer { wish: self, run: events.run(), sequence: 1, number: 0 };
        writer.past(events.past(since), |line| lines.extend_from_slice(&line));
        lines
    }

    /// Past events that were asked for and then what happens from now on. `place` is given back
    /// when the reader is gone.
    pub(super) fn follow<P: 'static>(
        self,
        events: &EventStream,
        place: P,
    ) -> mpsc::Receiver<Bytes> {
        let (lines, reader) = mpsc::channel(LINES_AHEAD);
        let (past, source) = events.past_and_follow(self.since.unwrap_or(Since::Last(0)));
        let run: Arc<str> = events.run().into();
        tokio::task::spawn_local(async move {
            let _place = place;
            self.go_on(&run, past, source, &lines).await;
        });
        reader
    }

    async fn go_on(
        &self,
        run: &str,
        past: Past,
        mut source: Follower,
        lines: &mpsc::Sender<Bytes>,
    ) {
        let mut writer = Writer { wish: self, run, sequence: 1, number: 0 };
        let mut told = Vec::new();
        writer.past(past, |line| told.push(line));
        for line in told {
            if lines.send(line).await.is_err() {
                return;
            }
        }
        loop {
            let line = tokio::select! {
                () = lines.closed() => return,
                followed = source.next() => match followed {
                    None => return,
                    Some(Followed::Event(_, event)) => writer.event(&event),
                    Some(Followed::Lost(_, count)) => {
                        writer.skip(count);
                        Some(writer.lost(count, "this reader was too slow"))
                    }
                },
                () = tokio::time::sleep(KEEP_ALIVE), if self.form == Form::ServerSent => {
                    Some(Bytes::from_static(b": still here\n\n"))
                }
            };
            if let Some(line) = line
                && lines.send(line).await.is_err()
            {
                return;
            }
        }
    }
}

/// Numbers and writes the events of one answer.
struct Writer<'a> {
    wish: &'a Wish,
    run: &'a str,
    /// Of the next event, in this answer.
    sequence: u64,
    /// Of the last event, in the stream.
    number: u64,
}

impl Writer<'_> {
    fn past(&mut self, past: Past, mut tell: impl FnMut(Bytes)) {
        if past.fallen > 0 {
            tell(self.lost(past.fallen, "no longer in memory; a file sink has what it was given"));
        }
        self.number = past.first - 1;
        for event in past.events {
            if let Some(line) = self.event(&event) {
                tell(line);
            }
        }
    }

    fn skip(&mut self, count: u64) {
        self.sequence += count;
        self.number += count;
    }

    fn event(&mut self, event: &Event) -> Option<Bytes> {
        self.number += 1;
        let sequence = self.sequence;
        self.sequence += 1;
        self.wish.filter.admits(event).then(|| self.line(sequence, event, Some(self.number)))
    }

    /// Past the filter: a reader of any selection must learn that it is not whole.
    fn lost(&mut self, count: u64, detail: &str) -> Bytes {
        let event =
            Event { count, ..Event::lifecycle(clock::unix_ns(), Lifecycle::EventsLost, detail) };
        let sequence = self.sequence;
        self.sequence += 1;
        self.line(sequence, &event, None)
    }

    fn line(&self, sequence: u64, event: &Event, number: Option<u64>) -> Bytes {
        let document = || json::line(event, Position { run: self.run, sequence });
        Bytes::from(match (self.wish.form, number) {
            (Form::Text, _) => format!("{}\n", text::line(event)),
            (Form::Json, _) => document() + "\n",
            (Form::ServerSent, Some(number)) => {
                let (run, label) = (self.run, event.kind.label());
                format!("id: {run}/{number}\nevent: {label}\ndata: {}\n\n", document())
            }
            (Form::ServerSent, None) => {
                format!("event: {}\ndata: {}\n\n", event.kind.label(), document())
            }
        })
    }
}

/// From where a reader of server-sent events goes on that was interrupted: its `Last-Event-ID`.
/// One of another run of the agent has missed all that this one knows.
pub(super) fn resume(run: &str, last_event_id: &str) -> Option<Since> {
    let (of, number) = last_event_id.split_once('/')?;
    let number = number.parse().ok()?;
    Some(Since::After(if of == run { number } else { 0 }))
}
