//! Distributes events to sinks and followers; publishing never waits for any of them.
//!
//! Each sink has its own bounded queue and thread, each follower its own place in a bounded ring.
//! Whoever falls behind loses events, which is counted and told to it once it reads again.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::broadcast;

pub use super::recent::{Past, Since};
use super::{
    Event,
    recent::Recent,
    sink::{Sink, SinkReport},
};
use crate::policy::SinkPolicy;

/// Events a follower may be behind before it loses some.
pub const FOLLOWER_EVENTS: usize = 4096;

/// Past events shown to those who do not say since when.
pub const RECENT_EVENTS: usize = 1000;

/// The one stream of the agent.
#[derive(Debug)]
pub struct EventStream {
    run: Arc<str>,
    followers: broadcast::Sender<Arc<Event>>,
    followers_lost: Arc<AtomicU64>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    sinks: Vec<Sink>,
    /// Sinks taken out by a reload that still write what they hold.
    retired: Vec<Sink>,
    /// Losses of sinks that are gone.
    retired_lost: u64,
    recent: Recent,
}

impl EventStream {
    /// Starts the sinks. Fails only if a thread cannot be started: a destination that cannot be
    /// written is tried again and again.
    pub fn start(policies: &[SinkPolicy]) -> io::Result<Self> {
        let (followers, _) = broadcast::channel(FOLLOWER_EVENTS);
        let stream = Self {
            run: uuid::Uuid::now_v7().to_string().into(),
            followers,
            followers_lost: Arc::default(),
            state: Mutex::default(),
        };
        stream.replace_sinks(policies)?;
        Ok(stream)
    }

    /// Id of this run of the agent, the `limiter.run` of every line.
    pub fn run(&self) -> &str {
        &self.run
    }

    /// Hands an event to every sink and follower. Never blocks: a full queue loses it, counted.
    pub fn publish(&self, event: Event) {
        let event = Arc::new(event);
        let mut state = self.lock();
        for sink in &state.sinks {
            sink.offer(&event);
        }
        state.recent.push(Arc::clone(&event));
        // Under the lock, so that all see the same order. Fails only if nobody follows.
        drop(self.followers.send(event));
    }

    /// Follows from now on.
    pub fn follow(&self) -> Follower {
        Follower {
            receiver: self.followers.subscribe(),
            lost: Arc::clone(&self.followers_lost),
            next: 1,
        }
    }

    /// What happened, as far as it is kept.
    pub fn past(&self, since: Since) -> Past {
        self.lock().recent.since(since)
    }

    /// What happened and then what happens, without a gap between them.
    pub fn past_and_follow(&self, since: Since) -> (Past, Follower) {
        let state = self.lock();
        // Publishing takes the lock: no event is in both, and none in neither.
        (state.recent.since(since), self.follow())
    }

    /// Other sinks from now on. A destination that stays keeps its thread, queue and numbering;
    /// one that goes away still writes what it holds.
    pub fn replace_sinks(&self, policies: &[SinkPolicy]) -> io::Result<()> {
        let mut state = self.lock();
        state.forget_finished();
        let mut old = std::mem::take(&mut state.sinks);
        let mut result = Ok(());
        for policy in policies {
            if let Some(at) = old.iter().position(|sink| sink.writes_to(&policy.kind)) {
                let mut sink = old.swap_remove(at);
                sink.set_policy(policy.clone());
                state.sinks.push(sink);
            } else {
                match Sink::start(Arc::clone(&self.run), policy.clone()) {
                    Ok(sink) => state.sinks.push(sink),
                    Err(error) => result = Err(error),
                }
            }
        }
        for sink in old {
            sink.close();
            state.retired.push(sink);
        }
        result
    }

    /// Has files opened again (after SIGHUP, for logrotate).
    pub fn reopen(&self) {
        for sink in &self.lock().sinks {
            sink.reopen();
        }
    }

    /// What each sink has lost and how often it failed.
    pub fn reports(&self) -> Vec<SinkReport> {
        self.lock().sinks.iter().map(Sink::report).collect()
    }

    /// Losses by stage, for status and metrics: `sink NAME`, `sinks_removed`, `followers`.
    pub fn losses(&self) -> Vec<(String, u64)> {
        let mut state = self.lock();
        state.forget_finished();
        let retired =
            state.retired_lost + state.retired.iter().map(|sink| sink.report().lost).sum::<u64>();
        let sinks = state.sinks.iter().map(Sink::report);
        sinks
            .map(|report| (format!("sink {}", report.name), report.lost))
            .chain([
                ("sinks_removed".into(), retired),
                ("followers".into(), self.followers_lost.load(Ordering::Relaxed)),
            ])
            .collect()
    }

    /// Lets the sinks write what they hold, for at most about `patience`; blocks meanwhile. A
    /// sink that cannot write by then is left behind.
    pub fn finish(&self, patience: Duration) {
        const STEP: Duration = Duration::from_millis(5);
        let sinks = {
            let mut state = self.lock();
            let mut sinks = std::mem::take(&mut state.sinks);
            sinks.append(&mut state.retired);
            sinks
        };
        for sink in &sinks {
            sink.close();
        }
        let mut waited = Duration::ZERO;
        while waited < patience && !sinks.iter().all(Sink::is_done) {
            std::thread::sleep(STEP);
            waited += STEP;
        }
    }

    /// Lists and counters are usable whatever panicked.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget_finished(&mut self) {
        let mut lost = 0;
        self.retired.retain(|sink| {
            let done = sink.is_done();
            if done {
                lost += sink.report().lost;
            }
            !done
        });
        self.retired_lost += lost;
    }
}

/// One reader of the stream, e.g. `limiter events -f`.
#[derive(Debug)]
pub struct Follower {
    receiver: broadcast::Receiver<Arc<Event>>,
    lost: Arc<AtomicU64>,
    next: u64,
}

/// What a follower is told.
#[derive(Clone, Debug)]
pub enum Followed {
    /// An event and its number for this follower.
    Event(u64, Arc<Event>),
    /// So many events were lost here; the first number is that of saying so.
    Lost(u64, u64),
}

impl Follower {
    /// The next event; `None` once the stream is gone.
    pub async fn next(&mut self) -> Option<Followed> {
        match self.receiver.recv().await {
            Ok(event) => Some(Followed::Event(self.number(), event)),
            Err(broadcast::error::RecvError::Lagged(events)) => {
                self.lost.fetch_add(events, Ordering::Relaxed);
                self.next += events;
                Some(Followed::Lost(self.number(), events))
            }
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }

    fn number(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        events::{Lifecycle, sink::tests::temporary},
        policy::{EventFormat, SinkKind},
    };

    fn event() -> Event {
        Event::lifecycle(0, Lifecycle::Attached, "eth0")
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_slow_follower_learns_how_many_it_lost() {
        let stream = EventStream::start(&[]).unwrap();
        let mut slow = stream.follow();
        let extra = 100;
        for _ in 0..FOLLOWER_EVENTS + extra {
            stream.publish(event());
        }
        let Some(Followed::Lost(sequence, 100)) = slow.next().await else {
            panic!("expected a loss");
        };
        assert_eq!(sequence, 101);
        let Some(Followed::Event(102, _)) = slow.next().await else {
            panic!("expected to go on");
        };
        assert!(stream.losses().contains(&("followers".into(), 100)));
        assert_eq!(stream.past(Since::Last(RECENT_EVENTS)).events.len(), RECENT_EVENTS);
    }

    #[test]
    fn a_reload_loses_nothing_and_keeps_numbers() {
        let directory = temporary("reload");
        let policy = |name: &str, format| SinkPolicy {
            kind: SinkKind::File { path: directory.join(name), rotate_bytes: 0, keep: 0 },
            format,
            kinds: Vec::new(),
        };
        let stream =
            EventStream::start(&[policy("a", EventFormat::Json), policy("b", EventFormat::Text)])
                .unwrap();
        let publish = |count| (0..count).for_each(|_| stream.publish(event()));
        publish(500);
        stream
            .replace_sinks(&[policy("a", EventFormat::Json), policy("c", EventFormat::Text)])
            .unwrap();
        publish(500);
        stream.finish(Duration::from_secs(10));
        let read = |name: &str| fs::read_to_string(directory.join(name)).unwrap();
        assert_eq!(read("b").lines().count(), 500);
        assert_eq!(read("c").lines().count(), 500);
        let numbers = read("a")
            .lines()
            .map(|line| {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                assert_eq!(line["limiter.run"], stream.run());
                line["limiter.sequence"].as_u64().unwrap()
            })
            .collect::<Vec<_>>();
        assert_eq!(numbers, (1..=1000).collect::<Vec<_>>());
        fs::remove_dir_all(directory).unwrap();
    }
}
