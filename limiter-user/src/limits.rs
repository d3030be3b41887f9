//! Rate limits: the arithmetic, the shared store, and how a client becomes a key in it.
//!
//! Knows requests only as keys. Clients of all limits have their words in one table in memory that
//! outlives the proxy ([`arena`]). A limit is known by its name: when a reload, another version of
//! the program or the next proxy counts by it, also with other numbers, everybody's debts stay.
//!
//! [`decide`] is what a request asks, all its limits at once: a list of [`Ask`] in, a list of
//! [`Answer`] out, local and at once.

pub mod algorithm;
pub mod arena;
mod atomic;
pub mod concurrency;
mod hash;
pub mod kept;
mod key;
mod memory;
mod place;
#[cfg(test)]
mod races;
#[cfg(test)]
mod reference;
mod slot;
pub mod sweep;
pub mod table;
mod windows;

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher as _, RandomState},
    io,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

pub use self::{
    algorithm::{Decision, Meter},
    key::{AddressKey, Key, MAX_PARTS, Part},
    table::Receipt,
};
use self::{arena::Arena, concurrency::UnderWay, hash::Secret, slot::Slot};
use crate::policy::Rate;

/// A limit's refused attempts within its period, beyond this many times what it allows at once,
/// are going on regardless: with what was allowed, three times the limit.
const FAR_FACTOR: u64 = 2;

/// Fewer refused attempts than these within a minute are never far beyond: a page that loads at
/// once what a small limit allows one after the other is no attack.
const NEVER_FAR: Rate = Rate { count: 100, period: Duration::from_mins(1) };

/// Most counters at once: each has two slots, and those of the policy before have as many.
pub const MAX_COUNTERS: usize = arena::SLOTS / 4 - 1;

/// What a limit says, with the client's persistence taken into account.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Verdict {
    /// The limit's own decision.
    pub decision: Decision,
    /// The client goes on far beyond the limit in spite of refusals.
    pub far: bool,
}

/// One limit in force.
#[derive(Debug)]
pub struct Counter {
    allowed: Slot,
    refused: Slot,
    secret: Secret,
    identity: u64,
}

/// What one limit is asked about a request.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The limit.
    pub counter: &'a Counter,
    /// Whom the request is counted against.
    pub key: Key<'a>,
    /// What it weighs, at least 1.
    pub cost: u64,
    /// Whether its refusal ends the request, which then is counted against no limit.
    pub is_enforced: bool,
    /// What the limit knows the client by.
    hash: u64,
}

/// What it says.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// The decision.
    pub verdict: Verdict,
    /// What was charged; `None`: nothing.
    pub receipt: Option<Receipt>,
}

impl<'a> Ask<'a> {
    /// Where the limit counts this key is on its way from memory from now on: those of all limits of
    /// a request at the same time.
    pub fn new(counter: &'a Counter, key: Key<'a>, cost: u64, is_enforced: bool) -> Self {
        let hash = counter.hash(key);
        table::prefetch(&counter.allowed, hash);
        Self { counter, key, cost, is_enforced, hash }
    }

    fn is_admitted(&self, now_ns: u64) -> bool {
        table::peek(&self.counter.allowed, self.hash, self.cost, now_ns).allowed
    }
}

/// Asks all limits of one request: it is charged to every limit that admits it, or, if one that is
/// enforced does not, to none.
pub fn decide(asks: &[Ask<'_>], now_ns: u64, answers: &mut Vec<Answer>) {
    // With a single limit, charging decides; looking first would only cost.
    let is_refused =
        asks.len() > 1 && asks.iter().any(|ask| ask.is_enforced && !ask.is_admitted(now_ns));
    let mut charged = 0;
    for ask in asks.iter().take_while(|_| !is_refused) {
        let answer = ask.counter.charge_hash(ask.hash, ask.cost, now_ns);
        answers.push(answer);
        charged += 1;
        // Somebody else was faster between the look and this.
        if ask.is_enforced && !answer.verdict.decision.allowed && asks.len() > 1 {
            for (ask, answer) in asks.iter().zip(answers.iter_mut()) {
                if let Some(receipt) = answer.receipt.take() {
                    answer.verdict.decision = ask.counter.give_back(&receipt, now_ns);
                }
            }
            break;
        }
    }
    for ask in &asks[charged..] {
        let verdict = ask.counter.check(ask.hash, ask.cost, now_ns);
        answers.push(Answer { verdict, receipt: None });
    }
}

impl Counter {
    /// Counts one request of this cost.
    pub fn charge(&self, key: Key<'_>, cost: u64, now_ns: u64) -> Answer {
        self.charge_hash(self.hash(key), cost, now_ns)
    }

    fn charge_hash(&self, hash: u64, cost: u64, now_ns: u64) -> Answer {
        let (decision, receipt) = table::charge(&self.allowed, hash, cost.max(1), now_ns);
        let far = !decision.allowed && !self.persists(hash, now_ns);
        Answer { verdict: Verdict { decision, far }, receipt }
    }

    /// Whether the request would be admitted, and where the key stands without it; counts
    /// only refused attempts.
    fn check(&self, hash: u64, cost: u64, now_ns: u64) -> Verdict {
        let decision = table::peek(&self.allowed, hash, cost, now_ns);
        if decision.allowed {
            let decision = table::peek(&self.allowed, hash, 0, now_ns);
            return Verdict { decision, far: false };
        }
        Verdict { decision, far: !self.persists(hash, now_ns) }
    }

    /// Where this key stands, as if after a request that cost nothing.
    pub fn look(&self, key: Key<'_>, now_ns: u64) -> Decision {
        table::peek(&self.allowed, self.hash(key), 0, now_ns)
    }

    /// What [`Self::charge`] would decide, counting nothing.
    pub fn peek(&self, key: Key<'_>, cost: u64, now_ns: u64) -> Decision {
        table::peek(&self.allowed, self.hash(key), cost, now_ns)
    }

    /// Gives back what was charged, as far as it still weighs. Where the key stands then.
    pub fn give_back(&self, receipt: &Receipt, now_ns: u64) -> Decision {
        table::give_back(&self.allowed, receipt, now_ns);
        table::peek(&self.allowed, receipt.hash(), 0, now_ns)
    }

    /// Whether anything counts against this key now.
    pub fn has_any(&self, key: Key<'_>, now_ns: u64) -> bool {
        let decision = self.look(key, now_ns);
        decision.remaining < decision.limit
    }

    /// What this limit knows the client by: another number for every other limit.
    pub fn hash(&self, key: Key<'_>) -> u64 {
        key.hash(self.secret, self.identity)
    }

    /// Counts an attempt that was refused elsewhere; whether the client goes on regardless.
    pub fn goes_on(&self, key: Key<'_>, now_ns: u64) -> bool {
        !self.persists(self.hash(key), now_ns)
    }

    /// Counts a refused attempt; whether it is still within what an honest client does.
    fn persists(&self, hash: u64, now_ns: u64) -> bool {
        // Elsewhere in the table than the client's other entry.
        table::charge(&self.refused, hash.rotate_left(23), 1, now_ns).0.allowed
    }
}

/// The counters of a policy by name, kept over reloads.
#[derive(Debug, Default)]
pub struct Counters {
    /// Until it is shared, of this process alone.
    arena: Option<Arc<Arena>>,
    by_name: HashMap<String, Arc<Counter>>,
    /// Those that a request of an earlier policy may still count in, too.
    known: HashMap<String, Weak<Counter>>,
    /// Those of the policy that is being read, and by what they count from [`Self::commit`] on.
    asked: HashMap<String, (Arc<Counter>, [Meter; 2])>,
    now_ns: u64,
    last_sweep_ns: u64,
    joining: sweep::Joining,
    under_way: Arc<UnderWay>,
}

impl Counters {
    /// Counts in memory that outlives this process. Before the first policy.
    pub fn share(&mut self, arena: Arc<Arena>) {
        self.arena = Some(arena);
    }

    /// Reads a policy: what is asked for until [`Self::commit`] puts its counters in force, or
    /// [`Self::abandon`] forgets them.
    pub fn begin(&mut self, now_ns: u64) {
        self.asked.clear();
        self.now_ns = now_ns;
    }

    /// The counter for the limit of this name, of which refused attempts are judged over `period`, or
    /// over a minute where it allows few.
    /// One that is in force goes on counting as before until [`Self::commit`].
    pub fn counter(
        &mut self,
        name: &str,
        meter: Meter,
        period: Duration,
    ) -> Result<Arc<Counter>, String> {
        let persistence = Meter::fixed_window(honest(meter.limit(), period));
        let meters = [meter, persistence];
        if let Some(counter) = self.known.get(name).and_then(Weak::upgrade) {
            self.asked.insert(name.to_owned(), (Arc::clone(&counter), meters));
            return Ok(counter);
        }
        let arena = if let Some(arena) = &self.arena {
            Arc::clone(arena)
        } else {
            let own = own_arena().map_err(|error| format!("no memory for limits: {error}"))?;
            Arc::clone(self.arena.insert(own))
        };
        let secret = arena.secret();
        let identity = secret.of_bytes(0, name.as_bytes());
        let now_ns = self.now_ns;
        let claim = |identity, meter| {
            Slot::claim(&arena, identity, meter, || sweep::all(&arena, now_ns))
                .ok_or_else(|| format!("limit {name}: too many limits"))
        };
        let allowed = claim(identity, meter)?;
        let refused = claim(secret.of_bytes(1, name.as_bytes()), persistence)?;
        let counter = Arc::new(Counter { allowed, refused, secret, identity });
        self.known.retain(|_, counter| counter.strong_count() > 0);
        self.known.insert(name.to_owned(), Arc::downgrade(&counter));
        self.asked.insert(name.to_owned(), (Arc::clone(&counter), meters));
        Ok(counter)
    }

    /// The policy that was read is in force: all who count, count by it from now on, and everybody
    /// has used what he had used. The counters of limits that it does not have are forgotten.
    pub fn commit(&mut self) {
        let Some(arena) = self.arena.clone() else { return };
        let asked = std::mem::take(&mut self.asked);
        let changes: Vec<(Arc<Counter>, [Meter; 2])> = asked.values().cloned().collect();
        self.by_name = asked.into_iter().map(|(name, (counter, _))| (name, counter)).collect();
        let changes: Vec<(&Slot, &Meter)> = changes
            .iter()
            .flat_map(|(counter, [allowed, refused])| {
                [(&counter.allowed, allowed), (&counter.refused, refused)]
            })
            .filter(|(slot, meter)| slot.view().current().1 != **meter)
            .collect();
        self.mark_in_force();
        if !changes.is_empty() {
            // What somebody left who ended in the midst of this is not to meet a third generation.
            sweep::all(&arena, self.now_ns);
            for (slot, meter) in &changes {
                slot.view().change(meter);
            }
            sweep::all(&arena, self.now_ns);
        }
    }

    /// The policy that was read never comes into force: everything stays as it was.
    pub fn abandon(&mut self) {
        self.asked.clear();
        self.mark_in_force();
    }

    fn mark_in_force(&self) {
        let Some(arena) = &self.arena else { return };
        let slots = self.by_name.values().flat_map(|counter| [&counter.allowed, &counter.refused]);
        let in_force: HashSet<usize> = slots.map(|slot| slot.index).collect();
        slot::only_in_force(arena, |index| in_force.contains(&index));
    }

    /// Frees what says nothing any more, if that was not done for some time, and has a part of the
    /// table that is in use lie on a larger page. Off the request path; every second or so.
    pub fn sweep(&mut self, now_ns: u64) {
        let every = u64::try_from(sweep::EVERY.as_nanos()).unwrap_or(u64::MAX);
        let Some(arena) = &self.arena else { return };
        if now_ns.saturating_sub(self.last_sweep_ns) >= every {
            self.last_sweep_ns = now_ns;
            self.joining = sweep::Joining::default();
            sweep::all(arena, now_ns);
        }
        self.joining.next(arena);
    }

    /// Requests under way, of all limits with a bound on them.
    pub fn under_way(&self) -> &Arc<UnderWay> {
        &self.under_way
    }

    /// Entries in use, and requests that found no entry, over all limits.
    pub fn usage(&self) -> (u64, u64) {
        let count = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let entries = self.arena.as_ref().map_or(0, |arena| count(arena.entries()));
        let slots = self.by_name.values().flat_map(|counter| [&counter.allowed, &counter.refused]);
        (entries, slots.map(|slot| count(slot.view().full())).sum())
    }
}

/// How many refused attempts an honest client of this limit makes at most.
fn honest(limit: u64, period: Duration) -> Rate {
    let count = limit.saturating_mul(FAR_FACTOR);
    if count >= NEVER_FAR.count || period.is_zero() {
        return Rate { count, period };
    }
    // As often, over a minute at least.
    let in_a_minute = u128::from(count) * NEVER_FAR.period.as_nanos() / period.as_nanos();
    let count = count.max(u64::try_from(in_a_minute).unwrap_or(u64::MAX));
    Rate { count: count.max(NEVER_FAR.count), period: period.max(NEVER_FAR.period) }
}

/// Memory of this process alone.
fn own_arena() -> io::Result<Arc<Arena>> {
    Arena::open(arena::create(random_words())?)
}

/// A secret of this process alone.
fn random_secret() -> Secret {
    Secret::new(random_words())
}

fn random_words() -> [u64; 2] {
    let random = RandomState::new();
    [random.hash_one(0), random.hash_one(1)]
}

#[cfg(test)]
mod tests;
