//! Which clients' successes were told within the last minute: a small table that forgets.
//!
//! Two clients in one place tell each other's success again, which costs one observation.

use std::{
    cell::RefCell,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
};

const PLACES: usize = 4096;
const TELL_EVERY_NS: u64 = 60_000_000_000;

/// The table of one core.
#[derive(Debug)]
pub(super) struct Recent {
    hasher: RandomState,
    places: RefCell<Vec<(u64, u64)>>,
}

impl Default for Recent {
    fn default() -> Self {
        Self { hasher: RandomState::new(), places: RefCell::new(vec![(0, 0); PLACES]) }
    }
}

impl Recent {
    /// Whether `client` was not told of within the last minute; it is from now on.
    pub(super) fn is_news(&self, client: IpAddr, now_ns: u64) -> bool {
        let hash = self.hasher.hash_one(client);
        let mut places = self.places.borrow_mut();
        #[expect(clippy::cast_possible_truncation, reason = "reduced to the number of places")]
        let place = &mut places[hash as usize % PLACES];
        if place.0 == hash && now_ns < place.1 {
            return false;
        }
        *place = (hash, now_ns.saturating_add(TELL_EVERY_NS));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_a_minute() {
        let recent = Recent::default();
        let client = "192.0.2.1".parse().unwrap();
        assert!(recent.is_news(client, 5));
        assert!(!recent.is_news(client, TELL_EVERY_NS));
        assert!(recent.is_news(client, TELL_EVERY_NS + 5));
    }
}
