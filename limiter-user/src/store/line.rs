//! One core's connection to the store, kept up beside the requests that use it.
//!
//! In: questions; out: answers within the policy's time, or an error at once while there is no
//! connection. Whatever goes wrong ends the connection, and one task makes the next, after a pause
//! that doubles and is partly random: hosts that lose the store together do not come back together.

use std::{
    cell::RefCell,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

use redis::aio::MultiplexedConnection;
use tokio::{sync::Notify, time};

use super::{
    Health, StoreError, Target,
    charge::{self, Ask, Charged, GiveBack, SharedLimit},
    connection::{CHARGE, Connection},
    refusals::Refusals,
};
use crate::clock;

/// The pause before the first and the longest before any further attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What is given back waits so long for a question to go with, and so much of it may wait; in one
/// question there is room for some of it.
const GIVE_BACK_WITHIN: Duration = Duration::from_millis(2);
const MOST_GIVEN_BACK: usize = 4096;
const GIVEN_BACK_AT_ONCE: usize = 32;

/// A connection that lasted so long was a good one: the next pause is the first again.
const GOOD_NS: u64 = 10_000_000_000;

/// A core's way to the store.
#[derive(Debug)]
pub struct Line {
    target: Arc<Target>,
    health: Arc<Health>,
    core: usize,
    open: RefCell<Option<Connection>>,
    /// Told when the first attempt to connect has ended; none after that.
    beginning: RefCell<Option<Rc<Notify>>>,
    refusals: Refusals,
    /// To be given back with the next question.
    given_back: RefCell<Vec<GiveBack>>,
}

impl Line {
    /// Begins to connect, on this thread, and goes on until the line is dropped. `seed` is for the
    /// pauses.
    pub fn start(target: Arc<Target>, health: Arc<Health>, core: usize, seed: u64) -> Rc<Self> {
        health.begin(core);
        let line = Rc::new(Self {
            target,
            health,
            core,
            open: RefCell::default(),
            beginning: RefCell::new(Some(Rc::default())),
            refusals: Refusals::new(),
            given_back: RefCell::default(),
        });
        tokio::task::spawn_local(keep(Rc::downgrade(&line), seed | 1));
        line
    }

    /// Whether requests can be asked about now.
    pub fn is_open(&self) -> bool {
        self.open.borrow().is_some()
    }

    /// Counts a request against all these limits, or against none. One that comes before the first
    /// connection is made waits for that, as long as it would for an answer: a proxy that begins
    /// counts where those before it did.
    pub async fn charge(&self, asks: &[Ask<'_>]) -> Result<Charged, StoreError> {
        let beginning = self.beginning.borrow().clone();
        if let Some(beginning) = beginning {
            time::timeout(self.target.policy().timeout, beginning.notified()).await.ok();
        }
        let Some((mut redis, ended)) = self.handle() else {
            self.health.note_absent();
            return Err(StoreError::Absent);
        };
        let keys = charge::keys(&self.target, asks);
        if let Some(refused) = self.refusals.find(&keys, asks, clock::monotonic_ns()) {
            self.health.note_remembered();
            return Ok(refused);
        }
        self.health.note_asked();
        let answer = self.ask(&mut redis, &ended, &keys, asks).await;
        match &answer {
            Ok(charged) => self.refusals.keep(&keys, asks, charged, clock::monotonic_ns()),
            Err(_) => self.health.note_failed(),
        }
        answer
    }

    /// Gives back what was charged to `who` at this time of the server's: with the next question, or
    /// soon. What cannot be stays charged.
    pub fn give_back(
        self: &Rc<Self>,
        limit: Arc<SharedLimit>,
        who: &[u8],
        cost: u64,
        charged_us: u64,
    ) {
        let key = limit.key(&self.target, who);
        let mut waiting = self.given_back.borrow_mut();
        if waiting.len() >= MOST_GIVEN_BACK {
            return;
        }
        waiting.push(GiveBack { limit, key, cost, charged_us });
        if waiting.len() == 1 {
            tokio::task::spawn_local(give_back_soon(Rc::downgrade(self)));
        }
    }

    /// One question within the policy's time, and what is to be given back before it.
    async fn ask(
        &self,
        redis: &mut MultiplexedConnection,
        ended: &Rc<Notify>,
        keys: &[Vec<u8>],
        asks: &[Ask<'_>],
    ) -> Result<Charged, StoreError> {
        let given_back: Vec<GiveBack> = {
            let mut waiting = self.given_back.borrow_mut();
            let count = waiting.len().min(GIVEN_BACK_AT_ONCE);
            waiting.drain(..count).collect()
        };
        let answer = charge::charge(&CHARGE, redis, &given_back, keys, asks);
        let answer = match time::timeout(self.target.policy().timeout, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(StoreError::TimedOut),
        };
        match &answer {
            Ok(charged) => self.health.note_unreadable(charged.unreadable),
            Err(error) => self.give_up(ended, error),
        }
        answer
    }

    /// The first attempt to connect has ended, well or not.
    fn has_begun(&self) {
        if let Some(beginning) = self.beginning.take() {
            beginning.notify_waiters();
        }
    }

    fn handle(&self) -> Option<(MultiplexedConnection, Rc<Notify>)> {
        self.open.borrow().as_ref().map(Connection::handle)
    }

    /// Ends the connection that failed, unless it is gone already.
    fn give_up(&self, ended: &Rc<Notify>, error: &StoreError) {
        let is_this = self.open.borrow().as_ref().is_some_and(|open| open.is(ended));
        if is_this {
            self.health.lost(self.core, &error.to_string());
            self.open.take();
        }
    }
}

/// Gives back what no question took along.
async fn give_back_soon(line: Weak<Line>) {
    time::sleep(GIVE_BACK_WITHIN).await;
    loop {
        let Some(line) = line.upgrade() else { return };
        if line.given_back.borrow().is_empty() {
            return;
        }
        let is_given = match line.handle() {
            Some((mut redis, ended)) => line.ask(&mut redis, &ended, &[], &[]).await.is_ok(),
            None => false,
        };
        if !is_given {
            line.given_back.borrow_mut().clear();
        }
    }
}

/// Keeps a line connected until it is dropped.
async fn keep(line: Weak<Line>, mut random: u64) {
    let mut pause = FIRST_PAUSE;
    loop {
        let Some(target) = line.upgrade().map(|line| Arc::clone(&line.target)) else { return };
        let opened = target.open().await;
        let Some(kept) = line.upgrade() else { return };
        match opened {
            Ok(connection) => {
                let since_ns = clock::coarse_monotonic_ns();
                let (_, ended) = connection.handle();
                kept.refusals.clear();
                kept.open.replace(Some(connection));
                kept.health.back(kept.core);
                kept.has_begun();
                drop(kept);
                ended.notified().await;
                let Some(kept) = line.upgrade() else { return };
                kept.give_up(&ended, &StoreError::Broken("closed by the server".to_owned()));
                if clock::coarse_monotonic_ns().saturating_sub(since_ns) > GOOD_NS {
                    pause = FIRST_PAUSE;
                }
            }
            Err(error) => {
                kept.health.lost(kept.core, &error.to_string());
                kept.has_begun();
            }
        }
        time::sleep(jittered(pause, &mut random)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Between half of `pause` and all of it.
fn jittered(pause: Duration, random: &mut u64) -> Duration {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    let share = u32::try_from(*random >> 40).unwrap_or_default();
    pause / 2 + (pause / 2).mul_f64(f64::from(share) / f64::from(1_u32 << 24))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_differ() {
        let mut random = 7;
        let pauses: Vec<_> = (0..100).map(|_| jittered(LONGEST_PAUSE, &mut random)).collect();
        assert!(pauses.iter().all(|pause| (LONGEST_PAUSE / 2..=LONGEST_PAUSE).contains(pause)));
        let spread = pauses.iter().max().unwrap().saturating_sub(*pauses.iter().min().unwrap());
        assert!(spread > LONGEST_PAUSE / 3, "{spread:?}");
    }
}
