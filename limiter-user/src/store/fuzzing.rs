//! What must hold of whatever the store answers, for fuzzers (any bytes) and tests (those of fixed
//! seeds): it panics where it does not hold. Nothing else calls it.

use std::{sync::LazyLock, time::Duration};

use redis::Value;

use super::{
    bans::{self, Word},
    charge::{self, Ask, SharedLimit},
};
use crate::{limits::Meter, policy::Rate};

/// One of each kind.
static LIMITS: LazyLock<[SharedLimit; 3]> = LazyLock::new(|| {
    let rate = Rate { count: 100, period: Duration::from_hours(1) };
    [Meter::bucket(rate, 20), Meter::sliding_window(rate), Meter::fixed_window(rate)]
        .map(|meter| SharedLimit::new("a", meter, true, true))
});

/// The bytes after the first as an answer in Redis' protocol, and as an array of numbers: what is
/// read of decisions and bans is within its bounds.
pub fn answers(data: &[u8]) {
    let Some((cost, data)) = data.split_first() else { return };
    let cost = u64::from(*cost);
    if let Ok(answer) = redis::parse_redis_value(data) {
        read(&answer, cost);
    }
    let (words, _) = data.as_chunks::<8>();
    let mut words = words.iter().map(|word| Value::Int(i64::from_le_bytes(*word)));
    let mut items: Vec<Value> = words.by_ref().take(3).collect();
    while let (Some(first), Some(second)) = (words.next(), words.next()) {
        items.push(Value::Array(vec![first, second]));
    }
    read(&Value::Array(items), cost);
}

fn read(answer: &Value, cost: u64) {
    for count in 1..=LIMITS.len() {
        let asks: Vec<Ask<'_>> =
            LIMITS[..count].iter().map(|limit| Ask { limit, key: b"k", cost }).collect();
        let Some(charged) = charge::read(answer, &asks) else { continue };
        assert_eq!(charged.decisions.len(), count);
        for decision in charged.decisions {
            assert!(decision.remaining <= decision.limit, "{decision:?} of {answer:?}");
        }
    }
    let Some((_, news)) = bans::read_news(answer, "own") else { return };
    for change in news.changes {
        assert_eq!(change.prefix, change.prefix.trunc());
        let (Word::New(terms) | Word::Known(terms)) = change.word else { continue };
        assert!(!terms.reason.chars().chain(terms.host.chars()).any(char::is_control));
        assert!(terms.reason.len() <= 800 && terms.host.len() <= 256, "{terms:?}");
    }
}
