//! The keys that an issuer publishes, as the whole process knows them.
//!
//! In: a token's header; out: the set of keys to verify it with, perhaps after waiting for a newer
//! one. Nobody but the one task of an issuer asks the issuer, and what clients send makes it ask no
//! more often than [`LEAST_BETWEEN_NS`]. Keys that were fetched once are used until there are
//! others, however long the issuer cannot be reached.

mod refresh;

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, watch};

pub(super) use self::refresh::start;
use super::upstream::Upstream;
use crate::{
    credentials::{
        jwks::KeySet,
        jwt::{Algorithm, Jws},
    },
    policy::upstream::UpstreamPolicy,
};

/// Time from one question to the next that a token with an unknown key may cause.
const LEAST_BETWEEN_NS: u64 = 5_000_000_000;

/// How long a request waits for keys, and how many requests may.
const WAIT: Duration = Duration::from_secs(2);
const MAX_WAITING: usize = 1024;

/// Names of keys that the issuer does not have: for how long they are not asked for again, and how
/// many are remembered.
const ABSENT_NS: u64 = 60_000_000_000;
const MAX_ABSENT: usize = 1024;

/// What makes an issuer's keys others.
#[derive(Clone, Debug, PartialEq)]
struct Place {
    upstream: UpstreamPolicy,
    path: String,
    algorithms: Vec<Algorithm>,
}

/// The keys of one issuer.
#[derive(Debug)]
pub(super) struct Issuer {
    place: Place,
    set: ArcSwapOption<KeySet>,
    /// Goes up when the keys change.
    generation: AtomicU64,
    /// Wakes the task.
    wanted: Arc<Notify>,
    /// Questions that were answered, well or not.
    asked: watch::Sender<u64>,
    started: AtomicBool,
    /// It is being asked, or will be in a moment.
    busy: AtomicBool,
    /// When it was asked last.
    asked_ns: AtomicU64,
    /// Before this a token with an unknown key causes no question.
    next_ns: AtomicU64,
    waiting: AtomicUsize,
    absent: Mutex<HashMap<u64, u64>>,
    hasher: RandomState,
}

/// Why there is no key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Missing {
    /// The issuer has none for this token.
    Unknown,
    /// The issuer's keys were never seen.
    Unavailable,
}

impl Issuer {
    /// The keys as they are now; `None`: not seen yet.
    pub(super) fn now(&self) -> Option<Arc<KeySet>> {
        self.set.load_full()
    }

    /// Goes up when the keys change.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }

    /// Keys with one for this token. Waits, within bounds, for the issuer if it is not among those
    /// that are known: a new key comes into use moments after it is published.
    pub(super) async fn find(&self, jws: &Jws<'_>, now_ns: u64) -> Result<Arc<KeySet>, Missing> {
        // Before anything is looked at, so that no answer is missed.
        let mut asked = self.asked.subscribe();
        let missing = match self.now() {
            Some(set) if set.fits(jws) => return Ok(set),
            // Nothing that is fetched makes a known key fit.
            Some(set) if jws.kid().is_none_or(|kid| set.knows(kid)) => {
                return Err(Missing::Unknown);
            }
            Some(_) if self.is_absent(jws, now_ns) => return Err(Missing::Unknown),
            Some(_) => Missing::Unknown,
            None => Missing::Unavailable,
        };
        if !self.started.load(Relaxed) {
            // Of a policy that is only looked at: no answer will ever come, nor is one waited for.
            std::future::pending::<()>().await;
        }
        if !self.ask(now_ns) || !self.wait(&mut asked).await {
            return Err(missing);
        }
        match self.now() {
            Some(set) if set.fits(jws) => Ok(set),
            Some(_) => {
                // An answer to an earlier question may be from before the key was published.
                if self.asked_ns.load(Relaxed) >= now_ns {
                    self.remember_absent(jws, now_ns);
                }
                Err(Missing::Unknown)
            }
            None => Err(Missing::Unavailable),
        }
    }

    /// Whether an answer will come, because the issuer is being asked or may be asked again.
    fn ask(&self, now_ns: u64) -> bool {
        let due = |next_ns: u64| (next_ns <= now_ns).then_some(now_ns + LEAST_BETWEEN_NS);
        if self.next_ns.fetch_update(Relaxed, Relaxed, due).is_ok() {
            self.busy.store(true, Relaxed);
            self.wanted.notify_one();
            return true;
        }
        self.busy.load(Relaxed)
    }

    /// Until the next answer; `false` if there is none in time, or too many wait for it.
    async fn wait(&self, asked: &mut watch::Receiver<u64>) -> bool {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Relaxed);
            }
        }
        if self.waiting.fetch_add(1, Relaxed) >= MAX_WAITING {
            self.waiting.fetch_sub(1, Relaxed);
            return false;
        }
        let _waiting = Waiting(&self.waiting);
        matches!(tokio::time::timeout(WAIT, asked.changed()).await, Ok(Ok(())))
    }

    fn is_absent(&self, jws: &Jws<'_>, now_ns: u64) -> bool {
        let absent = self.absent.lock().unwrap_or_else(PoisonError::into_inner);
        absent.get(&self.name(jws)).is_some_and(|until_ns| now_ns < *until_ns)
    }

    fn remember_absent(&self, jws: &Jws<'_>, now_ns: u64) {
        let mut absent = self.absent.lock().unwrap_or_else(PoisonError::into_inner);
        if absent.len() >= MAX_ABSENT {
            // Whoever invents names loses nothing but the next of them being asked for.
            absent.clear();
        }
        absent.insert(self.name(jws), now_ns.saturating_add(ABSENT_NS));
    }

    fn name(&self, jws: &Jws<'_>) -> u64 {
        self.hasher.hash_one(jws.kid())
    }

    /// Puts a set in place of the one before. Whether anything changed.
    fn replace(&self, set: KeySet) -> bool {
        if self.now().is_some_and(|before| before.is_same(&set)) {
            return false;
        }
        self.set.store(Some(Arc::new(set)));
        self.generation.fetch_add(1, Relaxed);
        self.absent.lock().unwrap_or_else(PoisonError::into_inner).clear();
        true
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        // Its task finds that there is nothing left to do.
        self.wanted.notify_one();
    }
}

/// Issuers from policy to policy: one that stays the same keeps its keys.
#[derive(Debug, Default)]
pub(super) struct Issuers(Vec<Weak<Issuer>>);

impl Issuers {
    /// The issuer at this place, which may be known.
    pub(super) fn at(
        &mut self,
        upstream: &UpstreamPolicy,
        path: &str,
        algorithms: &[Algorithm],
    ) -> Arc<Issuer> {
        self.0.retain(|issuer| issuer.strong_count() > 0);
        let place = Place {
            upstream: upstream.clone(),
            path: path.to_owned(),
            algorithms: algorithms.to_vec(),
        };
        let known = self.0.iter().filter_map(Weak::upgrade).find(|issuer| issuer.place == place);
        known.unwrap_or_else(|| {
            let issuer = Arc::new(Issuer {
                place,
                set: ArcSwapOption::empty(),
                generation: AtomicU64::new(0),
                wanted: Arc::default(),
                asked: watch::Sender::new(0),
                started: AtomicBool::new(false),
                busy: AtomicBool::new(true),
                asked_ns: AtomicU64::new(0),
                next_ns: AtomicU64::new(0),
                waiting: AtomicUsize::new(0),
                absent: Mutex::default(),
                hasher: RandomState::new(),
            });
            self.0.push(Arc::downgrade(&issuer));
            issuer
        })
    }
}
