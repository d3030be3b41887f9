//! Limits counted by the store: from a request's limits to keys and arguments of one script call,
//! and from its answer to decisions.
//!
//! The script (`charge.lua`) decides whether a request is within its limits and counts it; what that
//! means for headers is calculated here from the state it found, by the same [`Meter`] that counts
//! locally. Keys hold a digest of who is counted, and expire when they say nothing any more.

use std::fmt::Write as _;

use aws_lc_rs::hmac;
use redis::{Value, aio::MultiplexedConnection};

use super::{StoreError, Target, connection::CHARGE, script::Script};
use crate::limits::{Decision, Meter};

/// All keys begin so.
const PREFIX: &str = "limiter:";

/// A microsecond in the ticks of a token bucket: the script counts in both.
const TICKS_PER_US: u64 = 16_000;

/// Bytes of a digest that are used: enough that no two clients share one.
const IDENTITY_BYTES: usize = 16;

/// One limit as the store counts it.
#[derive(Debug)]
pub struct SharedLimit {
    meter: Meter,
    /// What its keys begin with.
    prefix: String,
    arguments: [String; 7],
}

/// One limit that a request meets.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Which.
    pub limit: &'a SharedLimit,
    /// Who is counted: as many bytes as it takes to tell them apart.
    pub key: &'a [u8],
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
}

impl SharedLimit {
    /// The limit of this name; one that is not enforced refuses nothing.
    pub fn new(name: &str, meter: Meter, enforced: bool) -> Self {
        let pair = |ticks: u64| [ticks / TICKS_PER_US, ticks % TICKS_PER_US];
        let (kind, numbers) = match meter {
            Meter::TokenBucket { cost_ticks, burst } => {
                let ([price, price_ticks], [depth, depth_ticks]) =
                    (pair(cost_ticks), pair(cost_ticks * burst));
                ("b", [price, price_ticks, depth, depth_ticks, 0])
            }
            Meter::SlidingWindow { count, period_ns } => ("s", [period_ns / 1000, count, 1, 0, 0]),
            Meter::FixedWindow { count, period_ns } => ("f", [period_ns / 1000, count, 1, 0, 0]),
        };
        let mut arguments = [const { String::new() }; 7];
        arguments[0].push_str(kind);
        for (argument, number) in arguments[1..].iter_mut().zip(numbers) {
            *argument = number.to_string();
        }
        arguments[6] = u8::from(enforced).to_string();
        Self { meter, prefix: format!("{PREFIX}limit:{name}:"), arguments }
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
    fn decide(&self, now_us: u64, [first, second]: [u64; 2]) -> Option<Decision> {
        Some(match self.meter {
            // What is owed, as if it were the beginning of time.
            Meter::TokenBucket { .. } => {
                let owed = first.checked_mul(TICKS_PER_US)?.checked_add(second)?;
                self.meter.charge(owed, 0).0
            }
            Meter::SlidingWindow { .. } | Meter::FixedWindow { .. } => {
                self.meter.charge_windows([first, second], now_us.checked_mul(1000)?)
            }
        })
    }
}

/// Asks about all limits in one call.
pub(super) async fn charge(
    redis: &mut MultiplexedConnection,
    target: &Target,
    asks: &[Ask<'_>],
) -> Result<Charged, StoreError> {
    charge_by(&CHARGE, redis, target, asks).await
}

pub(super) async fn charge_by(
    script: &Script,
    redis: &mut MultiplexedConnection,
    target: &Target,
    asks: &[Ask<'_>],
) -> Result<Charged, StoreError> {
    let keys: Vec<Vec<u8>> = asks.iter().map(|ask| ask.limit.key(target, ask.key)).collect();
    let arguments =
        asks.iter().flat_map(|ask| &ask.limit.arguments).map(|argument| argument.as_bytes());
    let answer = script.call(redis, &keys, arguments).await?;
    read(&answer, asks).ok_or_else(|| StoreError::Refused("not what the script says".to_owned()))
}

/// Whether the server runs the script and keeps what it writes: all that requests need of it.
pub(super) async fn probe(redis: &mut MultiplexedConnection) -> Result<(), StoreError> {
    let keys = [format!("{PREFIX}probe").into_bytes()];
    let arguments = ["f", "1000000", "1000000", "1", "0", "0", "0"];
    CHARGE.call(redis, &keys, arguments.iter().map(|argument| argument.as_bytes())).await?;
    Ok(())
}

fn read(answer: &Value, asks: &[Ask<'_>]) -> Option<Charged> {
    let Value::Array(items) = answer else { return None };
    let [now, refused, states @ ..] = items.as_slice() else { return None };
    let now_us = number(now)?;
    if states.len() != asks.len() {
        return None;
    }
    let decide = |(ask, state): (&Ask<'_>, &Value)| {
        let Value::Array(pair) = state else { return None };
        let [first, second] = pair.as_slice() else { return None };
        ask.limit.decide(now_us, [number(first)?, number(second)?])
    };
    let decisions = asks.iter().zip(states).map(decide).collect::<Option<_>>()?;
    Some(Charged { now_us, decisions, refused: number(refused)? == 1 })
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}
