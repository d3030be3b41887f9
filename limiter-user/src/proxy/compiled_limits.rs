//! Rate limits as the request path reads them: meters in force, keys and texts of fields prebuilt.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    compiled::{constant, name},
    identity::Identity,
};
use crate::{
    limits::{AddressKey, Counter, Counters, Key, Meter, Part, concurrency::UnderWay},
    policy::{
        Mode,
        limits::{ANONYMOUS, AUTHENTICATED, AppliesTo, Counting, KeyPart, LimitPolicy},
    },
    store::charge::SharedLimit,
};

/// One rate limit.
#[derive(Debug)]
pub(super) struct Limit {
    pub(super) name: String,
    pub(super) mode: Mode,
    pub(super) applies_to: AppliesTo,
    pub(super) count: Counting,
    pub(super) cost: u64,
    /// Whether a request that is admitted waits for its turn.
    pub(super) waits: bool,
    pub(super) concurrent: Option<Concurrent>,
    key: Vec<By>,
    /// By tier, or one for all; none: only how many at once is limited.
    budgets: Vec<Budget>,
}

/// How much in a time, for a tier or for all.
#[derive(Debug)]
pub(super) struct Budget {
    tier: Option<String>,
    pub(super) counter: Arc<Counter>,
    /// The same where hosts share limits.
    pub(super) shared: Option<Arc<SharedLimit>>,
    pub(super) fields: Fields,
}

/// How many at once.
#[derive(Debug)]
pub(super) struct Concurrent {
    pub(super) most: u64,
    pub(super) counts: Arc<UnderWay>,
    pub(super) identity: u64,
    pub(super) fields: Fields,
}

/// What is said of a limit in fields.
#[derive(Debug)]
pub(super) struct Fields {
    /// Its name as an sf-String with quotes.
    pub(super) quoted_name: String,
    /// Its item of `RateLimit-Policy`.
    pub(super) policy: HeaderValue,
}

/// What a key is made of.
#[derive(Debug)]
enum By {
    Client,
    Principal,
    Route,
    Header(HeaderName),
}

/// Whom a request comes from, and what for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller<'a> {
    pub(super) address: AddressKey,
    pub(super) identity: Option<&'a Identity>,
    pub(super) route: &'a str,
    pub(super) headers: &'a HeaderMap,
}

impl Limit {
    /// `is_shared`: it is counted where hosts share limits, too.
    pub(super) fn new(
        policy: &LimitPolicy,
        counters: &mut Counters,
        is_shared: bool,
    ) -> Result<Self, String> {
        let text = |what: &str| format!("\"{}\"", what.replace('\\', "\\\\").replace('"', "\\\""));
        let quoted_name = text(&policy.name);
        let budgets = policy.quota.iter().flat_map(|quota| {
            quota.amounts.each().into_iter().map(move |(tier, amount)| (quota, tier, amount))
        });
        let budgets: Vec<Budget> = budgets
            .map(|(quota, tier, amount)| {
                let meter = Meter::of(quota, amount);
                let known_as = tier.map_or_else(
                    || policy.name.clone(),
                    // No name of a limit has it.
                    |tier| format!("{}\0{tier}", policy.name),
                );
                let seconds = ceil_seconds(amount.rate.period);
                let item = format!("{quoted_name};q={};w={seconds}", meter.limit());
                let shared = is_shared.then(|| {
                    let (name, gives_back) =
                        (known_as.replace('\0', ":"), policy.count != Counting::All);
                    let is_enforced = policy.mode == Mode::Enforce;
                    Arc::new(SharedLimit::new(&name, meter, is_enforced, gives_back))
                });
                Ok(Budget {
                    shared,
                    tier: tier.map(str::to_owned),
                    counter: counters.counter(&known_as, meter, amount.rate.period)?,
                    fields: Fields {
                        policy: constant(&item, "limit name")?,
                        quoted_name: quoted_name.clone(),
                    },
                })
            })
            .collect::<Result<_, String>>()?;
        let concurrent = policy.concurrent.map(|most| {
            let counts = Arc::clone(counters.under_way());
            let quoted_name = if budgets.is_empty() {
                quoted_name.clone()
            } else {
                text(&format!("{}.concurrent", policy.name))
            };
            let item = format!("{quoted_name};q={most};qu=\"concurrent-requests\"");
            let fields = Fields { policy: constant(&item, "limit name")?, quoted_name };
            Ok::<_, String>(Concurrent {
                most,
                identity: counts.identity(&policy.name),
                counts,
                fields,
            })
        });
        Ok(Self {
            name: policy.name.clone(),
            mode: policy.mode,
            applies_to: policy.applies_to,
            count: policy.count,
            cost: policy.cost,
            waits: policy.quota.as_ref().is_some_and(|quota| !quota.max_delay.is_zero()),
            concurrent: concurrent.transpose()?,
            key: policy.key.iter().map(By::new).collect::<Result<_, _>>()?,
            budgets,
        })
    }

    /// Whether it counts a request of this caller.
    pub(super) fn applies(&self, caller: &Caller<'_>) -> bool {
        caller.identity.is_none() || self.applies_to == AppliesTo::All
    }

    /// Whether every address is counted apart.
    pub(super) fn counts_client(&self) -> bool {
        self.key.iter().any(|by| matches!(by, By::Client))
    }

    /// What a caller is counted by.
    pub(super) fn key<'a>(&self, caller: &Caller<'a>) -> Key<'a> {
        Key::new(self.key.iter().map(|by| match by {
            By::Client => Part::Address(caller.address),
            By::Principal => match caller.identity {
                Some(identity) => Part::Principal(&identity.name),
                None => Part::Address(caller.address),
            },
            By::Route => Part::Route(caller.route),
            By::Header(name) => Part::Header(caller.headers.get(name).map(HeaderValue::as_bytes)),
        }))
    }

    /// Which budget is this caller's: a tier that the limit does not have is `authenticated`.
    pub(super) fn budget_of(&self, caller: &Caller<'_>) -> Option<usize> {
        let tier = match caller.identity {
            None => ANONYMOUS,
            Some(identity) => identity.tier.as_ref().map_or(AUTHENTICATED, |tier| &tier.name),
        };
        let place = |name: &str| self.budgets.iter().position(|b| b.tier.as_deref() == Some(name));
        match self.budgets.first()?.tier {
            None => Some(0),
            Some(_) => place(tier).or_else(|| place(AUTHENTICATED)),
        }
    }

    /// The budget of this place.
    pub(super) fn budget(&self, place: usize) -> &Budget {
        &self.budgets[place]
    }
}

impl By {
    fn new(part: &KeyPart) -> Result<Self, String> {
        Ok(match part {
            KeyPart::Client => Self::Client,
            KeyPart::Principal => Self::Principal,
            KeyPart::Route => Self::Route,
            KeyPart::Header(text) => Self::Header(name(text)?),
        })
    }
}

fn ceil_seconds(period: Duration) -> u64 {
    period.as_secs() + u64::from(period.subsec_nanos() > 0)
}
