//! Bans that other hosts made, and those made here for others, through the shared store.
//!
//! Bans made here (by hand, by evidence) and lifted by hand here are said once; bans that came from
//! elsewhere are enforced like any other, show where they came from, and are never said again.
//! Whoever is trusted here is not banned on another host's word. Without the store every ban stays
//! in force where it is; what is made meanwhile is said when the store is back, and lifts that were
//! not said outlive the agent.

mod lifts;
mod waiting;

use std::{
    collections::{HashSet, VecDeque},
    rc::Rc,
    time::Duration,
};

use ipnet::IpNet;
use tokio::time;

use self::waiting::Waiting;
pub(super) use self::waiting::{SharedBans, SharedCounts};
use super::{Agent, bans::BanOrder, book, problems::Problem};
use crate::{
    clock,
    events::escape::line,
    policy::{BanScope, store::StorePolicy},
    store::{
        StoreError, Target,
        bans::{BATCH, BanLine, Change, Terms, Word},
    },
};

/// What the origin of a ban that came from elsewhere begins with.
const ELSEWHERE: &str = "shared by ";

/// How often others are listened to.
const LISTEN_EVERY: Duration = Duration::from_millis(200);

/// The first and the longest pause after the store was lost.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A ban as it is known by.
type Name = (IpNet, BanScope);

/// A ban that ends within this of another is no longer one.
const MOMENT_NS: u64 = 2_000_000_000;

/// Keeps to the store of the policy in force until the agent ends.
pub(super) async fn run(agent: Rc<Agent>) {
    let own = format!("{:016x}", clock::unix_ns() ^ u64::from(std::process::id()) << 48);
    let mut pause = FIRST_PAUSE;
    loop {
        let Some(policy) = agent.store_policy() else {
            agent.shared_bans.forget_all();
            agent.keep_lifts_or_say().await;
            agent.judge(Problem::BansUnshared, Ok(()));
            time::sleep(LISTEN_EVERY).await;
            continue;
        };
        match follow(&agent, &policy, &own, &mut pause).await {
            // Another policy.
            Ok(()) => pause = FIRST_PAUSE,
            Err(error) => {
                let why = line(&error.to_string(), 200).to_string();
                let sentence = format!("bans are not shared through {policy}: {why}");
                agent.judge(Problem::BansUnshared, Err(sentence));
                time::sleep(pause.mul_f64(Agent::shared_jitter())).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Says and listens until the policy names another store, or this one is lost.
async fn follow(
    agent: &Agent,
    policy: &StorePolicy,
    own: &str,
    pause: &mut Duration,
) -> Result<(), StoreError> {
    let target = Target::new(policy).map_err(StoreError::Broken)?;
    let mut line = BanLine::open(&target, own).await?;
    // What others lifted meanwhile comes first: those are not said again.
    while agent.take_news(&mut line, &[]).await? {}
    agent.shared_bans.overflowed.set(true);
    agent.judge(Problem::BansUnshared, Ok(()));
    // All of them, apart from what waits: as many as there are, each of them once.
    let mut all = VecDeque::new();
    loop {
        if agent.store_policy().as_ref() != Some(policy) {
            return Ok(());
        }
        if agent.shared_bans.overflowed.replace(false) {
            all = agent.own_bans();
        }
        let waiting = agent.shared_bans.begin(BATCH);
        let again: Vec<Name> = all.drain(..all.len().min(BATCH - waiting.len())).collect();
        let has_more = agent.take_news(&mut line, &agent.changes(&waiting, &again)).await?;
        // Said, and only now forgotten: what is lost on the way is said again.
        agent.shared_bans.done();
        agent.keep_lifts_or_say().await;
        *pause = FIRST_PAUSE;
        if !has_more && all.is_empty() && agent.shared_bans.is_empty() {
            // Whoever bans does not wait; whoever listens, a moment.
            time::timeout(LISTEN_EVERY, agent.shared_bans.filled.notified()).await.ok();
        }
    }
}

impl Agent {
    fn store_policy(&self) -> Option<StorePolicy> {
        self.inner.borrow().policy.store.clone()
    }

    /// Between a half and one: hosts that lost the store together come back one by one.
    fn shared_jitter() -> f64 {
        let mixed = clock::monotonic_ns().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        0.5 + f64::from(u32::try_from(mixed).unwrap_or_default()) / f64::from(1_u32 << 25)
    }

    /// A ban was made here.
    pub(super) fn share_ban(&self, ban: &book::Ban) {
        if is_own(ban) && self.inner.borrow().policy.store.is_some() {
            self.shared_bans.say(Waiting::Made((ban.prefix, ban.scope)));
        }
    }

    /// A ban was lifted here, wherever it came from.
    pub(super) fn share_lift(&self, ban: &book::Ban) {
        let inner = self.inner.borrow();
        if inner.policy.store.is_none() {
            return;
        }
        self.shared_bans.say(Waiting::Lifted((ban.prefix, ban.scope)));
        // What is one of requests here was one of packets where it came from.
        if inner.kernel.is_none() && ban.scope == BanScope::Http {
            self.shared_bans.say(Waiting::Lifted((ban.prefix, BanScope::Kernel)));
        }
    }

    /// Writes lifts that nobody was told yet: when this is done, they outlive the agent.
    pub(super) async fn keep_lifts(&self) -> Result<(), String> {
        let _turn = self.shared_bans.keeping.lock().await;
        if !self.shared_bans.unkept.replace(false) {
            return Ok(());
        }
        let state = self.inner.borrow().policy.agent.state.clone();
        let lifts = self.shared_bans.lifts();
        let written = tokio::task::spawn_blocking(move || lifts::write(&state, &lifts)).await;
        let written = written.map_err(|error| error.to_string()).flatten();
        if written.is_err() {
            self.shared_bans.unkept.set(true);
        }
        written
    }

    async fn keep_lifts_or_say(&self) {
        if let Err(error) = self.keep_lifts().await {
            log::warn!("{error}");
        }
    }

    /// All bans that were made here.
    fn own_bans(&self) -> VecDeque<Name> {
        let inner = self.inner.borrow();
        let own = inner.book.iter().filter(|ban| is_own(ban));
        own.map(|ban| (ban.prefix, ban.scope)).collect()
    }

    /// What is to be said now of what waited, and of bans that may be known.
    fn changes(&self, waiting: &[Waiting], again: &[Name]) -> Vec<Change> {
        let inner = self.inner.borrow();
        let now = |(prefix, scope): Name, word: fn(Terms) -> Word| {
            let ban = inner.book.get(prefix, scope).filter(|ban| is_own(ban))?;
            Some(Change { prefix, scope, word: word(terms(ban)?) })
        };
        let waiting = waiting.iter().filter_map(|change| match *change {
            Waiting::Made(name) => now(name, Word::New),
            Waiting::Lifted((prefix, scope)) => Some(Change { prefix, scope, word: Word::Lifted }),
        });
        waiting.chain(again.iter().filter_map(|name| now(*name, Word::Known))).collect()
    }

    /// One exchange with the store; whether there is more to be read.
    async fn take_news(&self, line: &mut BanLine, batch: &[Change]) -> Result<bool, StoreError> {
        let news = line.exchange(batch).await?;
        let said = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        self.shared_bans.count(|counts| {
            counts.said += said;
            counts.left_out += news.left_out;
            counts.unreadable += news.unreadable;
        });
        let lifting: HashSet<Name> = self.shared_bans.lifts().into_iter().collect();
        for change in news.changes {
            let followed = match change.word {
                // Lifted here since, which is said next.
                _ if lifting.contains(&(change.prefix, change.scope)) => None,
                Word::New(terms) | Word::Known(terms) => {
                    self.follow_ban(change.prefix, change.scope, terms)
                }
                Word::Lifted => self.follow_lift(&change),
            };
            self.shared_bans.count(|counts| match followed {
                Some(true) => counts.followed += 1,
                Some(false) => counts.refused += 1,
                None => {}
            });
        }
        Ok(news.has_more)
    }

    /// Another host's ban; `None`: it is in force here already.
    fn follow_ban(&self, prefix: IpNet, scope: BanScope, terms: Terms) -> Option<bool> {
        let scope = {
            let inner = self.inner.borrow();
            // What has no kernel half has its proxy.
            let scope = if inner.kernel.is_some() { scope } else { BanScope::Http };
            let until_ns = clock::monotonic_ns().saturating_add(nanoseconds(terms.left));
            let known = inner.book.get(prefix, scope);
            if known.is_some_and(|ban| ban.expires_ns.saturating_add(MOMENT_NS) >= until_ns) {
                return None;
            }
            if let Some(objection) = inner.safety.objection(prefix, None) {
                let (host, reason) = (&terms.host, objection.reason());
                log::warn!("{prefix}, banned by {host}, is not banned here: {reason}");
                return Some(false);
            }
            scope
        };
        let order = BanOrder {
            prefix,
            scope,
            // Whole seconds, as people read them.
            length: Duration::from_secs(
                terms.left.as_millis().div_ceil(1000).try_into().unwrap_or(0),
            ),
            reason: terms.reason,
            origin: format!("{ELSEWHERE}{}", terms.host).into(),
            evidence: None,
        };
        match self.enforce_ban(order) {
            Ok(_) => Some(true),
            Err(error) => {
                log::warn!("{prefix}, banned by {}, is not banned here: {error}", terms.host);
                Some(false)
            }
        }
    }

    /// Another host lifted a ban; `None`: there is none here.
    fn follow_lift(&self, change: &Change) -> Option<bool> {
        let is_off = self.inner.borrow().kernel.is_none();
        let lifted =
            self.lift(|ban| ban.prefix == change.prefix && (is_off || ban.scope == change.scope));
        match lifted {
            Ok(lifted) => (!lifted.is_empty()).then_some(true),
            Err(error) => {
                self.judge(Problem::BanTable, Err(error.to_string()));
                Some(false)
            }
        }
    }
}

fn is_own(ban: &book::Ban) -> bool {
    !ban.origin.starts_with(ELSEWHERE)
}

/// What is said of a ban; `None`: it has ended.
fn terms(ban: &book::Ban) -> Option<Terms> {
    let left_ns = ban.expires_ns.checked_sub(clock::monotonic_ns())?;
    let host = nix::unistd::gethostname().unwrap_or_default();
    Some(Terms {
        left: Duration::from_nanos(left_ns),
        reason: ban.reason.clone(),
        host: host.to_string_lossy().into_owned(),
    })
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
