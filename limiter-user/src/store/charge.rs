//! Limits counted by the store: from a request's limits to keys and arguments of one script call,
//! and from its answer to decisions.
//!
//! The script (`charge.lua`) decides whether a request is within its limits and counts it; what that
//! means for headers is calculated here from the state it found, by the same [`Meter`] that counts
//! locally. Keys hold a digest of who is counted, and expire when they say nothing any more.

use std::{
    fmt::Write as _,
    hash::{Hash as _, Hasher},
    sync::Arc,
};

use aws_lc_rs::hmac;
use redis::{Cmd, Value, aio::MultiplexedConnection};

use super::{StoreError, Target, connection::CHARGE, script::Script};
use crate::limits::{Decision, Meter, algorithm::TICKS_PER_NS};

/// All keys begin so.
const PREFIX: &str = "limiter:";

/// A microsecond in the ticks of a token bucket: the script counts in both.
const TICKS_PER_US: u64 = 1000 * TICKS_PER_NS;

/// Bytes of a digest that are used: enough that no two clients share one.
const IDENTITY_BYTES: usize = 16;

/// One limit as the store counts it.
#[derive(Debug)]
pub struct SharedLimit {
    meter: Meter,
    is_enforced: bool,
    gives_back: bool,
    /// What its keys begin with.
    prefix: String,
    /// Its numbers as the script wants them, where a request costs one.
    arguments: [String; NUMBERS],
}

/// Numbers of a limit, behind its kind and before its mode.
const NUMBERS: usize = 6;

/// One limit that a request meets.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Which.
    pub limit: &'a SharedLimit,
    /// Who is counted: as many bytes as it takes to tell them apart.
    pub key: &'a [u8],
    /// What the request costs, at least 1.
    pub cost: u64,
}

/// What was charged for a request that is not to count.
#[derive(Debug)]
pub(super) struct GiveBack {
    pub(super) limit: Arc<SharedLimit>,
    /// As [`keys`] made it.
    pub(super) key: Vec<u8>,
    /// What was charged, at least 1.
    pub(super) cost: u64,
    /// When, by the store's clock.
    pub(super) charged_us: u64,
}

/// What the store said.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Charged {
    /// Its clock, Unix us.
    pub now_us: u64,
    /// One for each limit, in order.
    pub decisions: Vec<Decision>,
    /// The request was counted against none, because an enforced limit refuses it.
    pub refused: bool,
    /// Values that were found there and that nobody who counts wrote: they count for nothing.
    pub unreadable: u64,
}

impl SharedLimit {
    /// The limit of this name; one that is not enforced refuses nothing, and of one that gives back
    /// what it charged may not count in the end.
    pub fn new(name: &str, meter: Meter, is_enforced: bool, gives_back: bool) -> Self {
        let prefix = format!("{PREFIX}limit:{name}:");
        let arguments = numbers(meter, 1).map(|number| number.to_string());
        Self { meter, is_enforced, gives_back, prefix, arguments }
    }

    pub(super) fn hash_numbers(&self, hasher: &mut impl Hasher) {
        self.arguments.hash(hasher);
    }

    pub(super) const fn is_enforced(&self) -> bool {
        self.is_enforced
    }

    pub(super) const fn gives_back(&self) -> bool {
        self.gives_back
    }

    const fn kind(&self) -> &'static str {
        match self.meter {
            Meter::Bucket { .. } => "b",
            Meter::SlidingWindow { .. } => "s",
            Meter::FixedWindow { .. } => "f",
        }
    }

    pub(super) fn key(&self, target: &Target, who: &[u8]) -> Vec<u8> {
        let digest = hmac::sign(&target.identities, who);
        let mut key = String::with_capacity(self.prefix.len() + 2 * IDENTITY_BYTES);
        key.push_str(&self.prefix);
        for byte in &digest.as_ref()[..IDENTITY_BYTES] {
            // Writing to a string cannot fail.
            write!(key, "{byte:02x}").ok();
        }
        key.into_bytes()
    }

    /// What the state that the script found means for one more request.
    fn decide(&self, now_us: u64, [first, second]: [u64; 2], cost: u64) -> Option<Decision> {
        Some(match self.meter {
            // What is owed, as if it were the beginning of time.
            Meter::Bucket { .. } => {
                let owed = first.checked_mul(TICKS_PER_US)?.checked_add(second)?;
                self.meter.charge(owed, cost, 0).0
            }
            Meter::SlidingWindow { .. } | Meter::FixedWindow { .. } => {
                self.meter.charge_windows([first, second], cost, now_us.checked_mul(1000)?)
            }
        })
    }
}

/// What the script knows a meter and a cost by.
fn numbers(meter: Meter, cost: u64) -> [u64; NUMBERS] {
    let pair = |ticks: u64| [ticks / TICKS_PER_US, ticks % TICKS_PER_US];
    match meter {
        Meter::Bucket { cost_ticks, depth_ticks } => {
            // More than the bucket holds is never allowed, however much more.
            let price = cost_ticks.saturating_mul(cost).min(depth_ticks.saturating_add(1));
            let ([price, price_rest], [depth, depth_rest], [unit, unit_rest]) =
                (pair(price), pair(depth_ticks), pair(cost_ticks));
            [price, price_rest, depth, depth_rest, unit, unit_rest]
        }
        Meter::SlidingWindow { count, period_ns } | Meter::FixedWindow { count, period_ns } => {
            [period_ns / 1000, count, cost.min(count.saturating_add(1)), 0, 0, 0]
        }
    }
}

impl Ask<'_> {
    fn write(&self, command: &mut Cmd) {
        command.arg(self.limit.kind());
        if self.cost <= 1 {
            for number in &self.limit.arguments {
                command.arg(number.as_str());
            }
        } else {
            for number in numbers(self.limit.meter, self.cost) {
                command.arg(number);
            }
        }
        command.arg(u8::from(self.limit.is_enforced));
    }
}

/// The keys of a request, one for each limit.
pub(super) fn keys(target: &Target, asks: &[Ask<'_>]) -> Vec<Vec<u8>> {
    asks.iter().map(|ask| ask.limit.key(target, ask.key)).collect()
}

/// Gives back, then asks about all limits, in one call.
pub(super) async fn charge(
    script: &Script,
    redis: &mut MultiplexedConnection,
    given_back: &[GiveBack],
    keys: &[Vec<u8>],
    asks: &[Ask<'_>],
) -> Result<Charged, StoreError> {
    let fill = |command: &mut Cmd| {
        for key in given_back.iter().map(|it| &it.key).chain(keys) {
            command.arg(key.as_slice());
        }
        command.arg(given_back.len());
        for GiveBack { limit, cost, charged_us, .. } in given_back {
            command.arg(*charged_us);
            Ask { limit, key: &[], cost: *cost }.write(command);
        }
        for ask in asks {
            ask.write(command);
        }
    };
    let answer = script.call(redis, given_back.len() + asks.len(), fill).await?;
    read(&answer, asks).ok_or_else(|| StoreError::Refused("not what the script says".to_owned()))
}

/// Whether the server runs the script and keeps what it writes: all that requests need of it.
pub(super) async fn probe(redis: &mut MultiplexedConnection) -> Result<(), StoreError> {
    let fill = |command: &mut Cmd| {
        command.arg(format!("{PREFIX}probe"));
        for argument in ["0", "f", "1000000", "1000000", "1", "0", "0", "0", "0"] {
            command.arg(argument);
        }
    };
    CHARGE.call(redis, 1, fill).await?;
    Ok(())
}

pub(super) fn read(answer: &Value, asks: &[Ask<'_>]) -> Option<Charged> {
    let Value::Array(items) = answer else { return None };
    let [now, refused, unreadable, states @ ..] = items.as_slice() else { return None };
    let (now_us, is_refused) = (number(now)?, number(refused)? == 1);
    let unreadable = number(unreadable)?;
    if states.len() != asks.len() {
        return None;
    }
    let decide = |(ask, state): (&Ask<'_>, &Value)| {
        let Value::Array(pair) = state else { return None };
        let [first, second] = pair.as_slice() else { return None };
        let state = [number(first)?, number(second)?];
        let decision = ask.limit.decide(now_us, state, ask.cost.max(1))?;
        // One that would admit a request which another refuses says where that leaves it.
        if is_refused && decision.allowed {
            return ask.limit.decide(now_us, state, 0);
        }
        Some(decision)
    };
    let decisions = asks.iter().zip(states).map(decide).collect::<Option<_>>()?;
    Some(Charged { now_us, decisions, refused: is_refused, unreadable })
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}
