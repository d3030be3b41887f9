//! What the store refused a moment ago: asked again meanwhile, it would say the same.
//!
//! Whoever goes on far beyond a limit is refused here, so that a flood of one client is no flood of
//! questions. Only refusals are remembered, never longer than until the limit admits again, and a
//! second at most; where what was charged may be given back, a tenth of one. Bounded: a newer one
//! takes the place of an older.

use std::{
    cell::RefCell,
    hash::{BuildHasher as _, Hash as _, Hasher as _, RandomState},
};

use super::charge::{Ask, Charged};

/// How long a refusal is believed.
const BELIEVED_NS: u64 = 1_000_000_000;

/// The same where somebody may give back what was charged, and nobody says so here.
const DOUBTED_NS: u64 = 100_000_000;

/// How many are remembered.
const PLACES: usize = 4096;

/// Refusals of one core.
#[derive(Debug)]
pub(super) struct Refusals {
    secrets: [RandomState; 2],
    places: RefCell<Box<[Option<Refusal>]>>,
}

#[derive(Clone, Debug)]
struct Refusal {
    /// Who was refused, by what: two hashes with secrets of this process.
    who: [u64; 2],
    charged: Charged,
    at_ns: u64,
    until_ns: u64,
}

impl Refusals {
    pub(super) fn new() -> Self {
        let places = (0..PLACES).map(|_| None).collect();
        Self { secrets: [RandomState::new(), RandomState::new()], places: RefCell::new(places) }
    }

    /// What the store said to the same question, if it was no and still is.
    pub(super) fn find(&self, keys: &[Vec<u8>], asks: &[Ask<'_>], now_ns: u64) -> Option<Charged> {
        let who = self.who(keys, asks);
        let places = self.places.borrow();
        let found = places[place(who)].as_ref()?;
        if found.who != who || now_ns >= found.until_ns {
            return None;
        }
        let mut charged = found.charged.clone();
        let passed_ns = now_ns.saturating_sub(found.at_ns);
        for decision in &mut charged.decisions {
            decision.reset_after_ns = decision.reset_after_ns.saturating_sub(passed_ns);
            if !decision.allowed {
                let left_ns = decision.retry_after_ns.saturating_sub(passed_ns);
                decision.retry_after_ns = left_ns.max(1);
            }
        }
        Some(charged)
    }

    /// Remembers what the store said, if it is worth it.
    pub(super) fn keep(&self, keys: &[Vec<u8>], asks: &[Ask<'_>], charged: &Charged, now_ns: u64) {
        if !charged.refused {
            return;
        }
        let is_doubtful = asks.iter().any(|ask| ask.limit.gives_back());
        let longest_ns = if is_doubtful { DOUBTED_NS } else { BELIEVED_NS };
        let said = asks.iter().zip(&charged.decisions);
        let refused = said.filter(|(ask, said)| ask.limit.is_enforced() && !said.allowed);
        let wait_ns = refused.map(|(_, said)| said.retry_after_ns).max().unwrap_or_default();
        let until_ns = now_ns.saturating_add(wait_ns.min(longest_ns));
        let who = self.who(keys, asks);
        let refusal = Refusal { who, charged: charged.clone(), at_ns: now_ns, until_ns };
        self.places.borrow_mut()[place(who)] = Some(refusal);
    }

    /// The store may be another, or have forgotten everything.
    pub(super) fn clear(&self) {
        self.places.borrow_mut().fill(None);
    }

    fn who(&self, keys: &[Vec<u8>], asks: &[Ask<'_>]) -> [u64; 2] {
        self.secrets.each_ref().map(|secret| {
            let mut hasher = secret.build_hasher();
            keys.hash(&mut hasher);
            for ask in asks {
                // A limit that changes is asked about at once.
                ask.limit.hash_numbers(&mut hasher);
                ask.cost.hash(&mut hasher);
            }
            hasher.finish()
        })
    }
}

fn place(who: [u64; 2]) -> usize {
    usize::try_from(who[0]).unwrap_or_default() % PLACES
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        limits::{Decision, Meter},
        policy::Rate,
        store::charge::SharedLimit,
    };

    fn said(refused: bool, retry_after_ns: u64) -> Charged {
        let decision = Decision {
            allowed: !refused,
            limit: 1,
            remaining: 0,
            reset_after_ns: 5_000_000_000,
            retry_after_ns,
            turn_after_ns: 0,
        };
        Charged { now_us: 1, decisions: vec![decision], refused, unreadable: 0 }
    }

    #[test]
    fn only_refusals_are_believed_and_not_for_long() {
        let limit = |gives_back| {
            let meter = Meter::fixed_window(Rate { count: 1, period: Duration::from_secs(1) });
            SharedLimit::new("a", meter, true, gives_back)
        };
        let (strict, lenient) = (limit(false), limit(true));
        let refusals = Refusals::new();
        let keys = [b"a".to_vec()];
        let ask = |limit, cost| [Ask { limit, key: b"a", cost }];
        let asks = ask(&strict, 1);
        refusals.keep(&keys, &asks, &said(false, 0), 10);
        assert_eq!(refusals.find(&keys, &asks, 10), None);
        let lenient = ask(&lenient, 1);
        refusals.keep(&keys, &lenient, &said(true, u64::MAX), 10);
        assert!(refusals.find(&keys, &lenient, DOUBTED_NS).is_some());
        assert_eq!(refusals.find(&keys, &lenient, DOUBTED_NS + 10), None, "some may be given back");
        refusals.clear();
        refusals.keep(&keys, &asks, &said(true, 500), 10);
        let found = refusals.find(&keys, &asks, 110).unwrap();
        assert_eq!(found.decisions[0].retry_after_ns, 400);
        assert_eq!(refusals.find(&keys, &ask(&strict, 2), 110), None);
        assert_eq!(refusals.find(&[b"b".to_vec()], &asks, 110), None);
        let meter = Meter::fixed_window(Rate { count: 2, period: Duration::from_secs(1) });
        let changed = SharedLimit::new("a", meter, true, false);
        assert_eq!(refusals.find(&keys, &ask(&changed, 1), 110), None);
        assert_eq!(refusals.find(&keys, &asks, 510), None, "the limit admits again");
        refusals.keep(&keys, &asks, &said(true, u64::MAX), 10);
        assert!(refusals.find(&keys, &asks, 999_999_999).is_some());
        assert_eq!(refusals.find(&keys, &asks, 1_000_000_010), None);
        refusals.clear();
        assert_eq!(refusals.find(&keys, &asks, 20), None);
    }
}
