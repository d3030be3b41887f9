//! What a question costs the client that it is about.
//!
//! In: what the client shows, and what is known of it; out: whether the server is asked at all, and
//! afterwards whether it was asked in vain. Whoever shows what the server accepted lately is asked
//! about although others at the same address are not.

use aws_lc_rs::digest::{Context, SHA256};
use http::{
    HeaderValue,
    header::{AUTHORIZATION, COOKIE},
    request::Parts,
};

use crate::{
    clock,
    limits::{Key, Part, Receipt, concurrency::Permit},
    proxy::{
        accepted::{Credential, Holder, Standing},
        compiled::Compiled,
        compiled_auth::Scheme,
        proof::{Client, Principal, guarded, own_bearer},
        reply::Reply,
    },
};

/// Of the requests that there may be in all, so many may wait for one server's word; of these, all
/// but so many may be about strangers, and so many about strangers at one address.
const ASKING_SHARE: usize = 4;
const KEPT_SHARE: usize = 4;
const STRANGERS_SHARE: usize = 4;

/// What those are known by among the requests under way, of no limit.
const ASKING: u64 = 1;
const STRANGERS: u64 = 2;
const STRANGERS_AT_ONE: u64 = 3;

/// What a client shows to a server that is asked about it.
#[derive(Clone, Copy, Debug)]
struct Shown {
    credential: Credential,
    /// Not only cookies, which browsers send whatever they ask for, also when a session is over.
    is_deliberate: bool,
    standing: Standing,
}

/// One question, from before it is asked until its answer is understood. One that is dropped in
/// between was asked in vain.
#[derive(Debug)]
pub(super) struct Toll<'a> {
    policy: &'a Compiled,
    client: &'a Client,
    shown: Option<Shown>,
    receipt: Option<Receipt>,
    /// What it shows to another scheme says that it has expired; nobody verified it.
    says_expired: bool,
    _places: [Option<Permit>; 3],
}

/// What a refusal says of the client.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Blame {
    /// It counts as a failed attempt.
    pub(super) is_attempt: bool,
    /// It shows something on purpose that was never good.
    pub(super) is_invalid: bool,
}

impl<'a> Toll<'a> {
    /// Whether the server is asked. Refusals: `Guarded`, if this address had too many refused;
    /// `Overloaded`, if too many wait for the server's word.
    pub(super) fn take(
        policy: &'a Compiled,
        scheme: &'a Scheme,
        client: &'a Client,
        parts: &Parts,
        says_expired: bool,
    ) -> Result<Self, Reply> {
        // The request may have waited for its body.
        let now_ns = clock::monotonic_ns();
        let shown = shown(policy, scheme, parts, now_ns);
        let accepted = shown.as_ref().filter(|shown| shown.standing == Standing::Accepted);
        let whose = match accepted {
            Some(shown) => Key::new([Part::Header(Some(&shown.credential))]),
            None => scheme.work_of(client.key),
        };
        let is_stranger = accepted.is_none() && !client.trusted;
        if is_stranger {
            let is_known = policy.known.has_any(Key::address(client.key), now_ns);
            policy.guard.may_try(client.key, is_known, now_ns).map_err(guarded)?;
        }
        let places =
            places(policy, scheme, is_stranger.then_some(whose)).ok_or_else(Reply::overloaded)?;
        let receipt = if client.trusted {
            None
        } else {
            policy.guard.begin_work(whose, now_ns).map_err(guarded)?
        };
        Ok(Self { policy, client, shown, receipt, says_expired, _places: places })
    }

    /// Nobody can blame the client for what came of it.
    pub(super) fn give_back(&mut self) {
        if let Some(receipt) = self.receipt.take() {
            self.policy.guard.give_back(&receipt, clock::monotonic_ns());
        }
    }

    /// The server let the request in; `principal`: whom it named.
    pub(super) fn accepted(mut self, principal: Option<&Principal>) {
        self.give_back();
        let Some(shown) = &self.shown else { return };
        let holder = match principal {
            Some(principal) => Holder::Name(principal.identity(self.policy).name.clone()),
            None => Holder::At(self.client.key),
        };
        self.policy.accepted.accept(shown.credential, holder, clock::monotonic_ns());
    }

    /// The server does not know whom this is about, and says so (401).
    pub(super) fn unknown(self) -> Blame {
        let Some(shown) = &self.shown else { return Blame::default() };
        if shown.standing != Standing::Unknown {
            self.policy.accepted.lapse(&shown.credential);
        }
        let is_attempt = shown.standing == Standing::Unknown;
        let is_invalid = is_attempt && shown.is_deliberate && !self.says_expired;
        Blame { is_attempt, is_invalid }
    }

    /// The server says that this is not for whom it is about (403), which some say to whom they do
    /// not know.
    pub(super) fn forbidden(self) -> Blame {
        let is_attempt = self.shown.is_some_and(|shown| shown.standing == Standing::Unknown);
        Blame { is_attempt, is_invalid: false }
    }
}

/// What is shown to the server: all of it, since nobody here knows which part it goes by.
fn shown(policy: &Compiled, scheme: &Scheme, parts: &Parts, now_ns: u64) -> Option<Shown> {
    let is_there = |value: &&HeaderValue| !value.is_empty();
    let authorization = parts.headers.get(AUTHORIZATION).filter(is_there);
    // One of our keys is not shown.
    let authorization = authorization.filter(|value| own_bearer(value).is_none());
    let mut cookies = parts.headers.get_all(COOKIE).iter().filter(is_there).peekable();
    if authorization.is_none() && cookies.peek().is_none() {
        return None;
    }
    // None of these has NUL in it.
    let mut hash = Context::new(&SHA256);
    hash.update(scheme.label.as_bytes());
    hash.update(b"\0");
    hash.update(authorization.map_or(b"", |value| value.as_bytes()));
    hash.update(b"\0");
    while let Some(cookie) = cookies.next() {
        hash.update(cookie.as_bytes());
        hash.update(if cookies.peek().is_some() { b"; " } else { b"" });
    }
    let credential = hash.finish().as_ref().try_into().ok()?;
    let standing = policy.accepted.standing(&credential, now_ns);
    Some(Shown { credential, is_deliberate: authorization.is_some(), standing })
}

/// Places among those who wait for this server's word; `stranger`: counted by this, too.
fn places(
    policy: &Compiled,
    scheme: &Scheme,
    stranger: Option<Key<'_>>,
) -> Option<[Option<Permit>; 3]> {
    let most = (policy.bounds.max_requests / ASKING_SHARE).max(1);
    let bound = |most: usize| u64::try_from(most).unwrap_or(u64::MAX);
    let server = Key::new([Part::Scheme(scheme.label.as_bytes())]);
    let admit = |what, key, most| policy.waiting.admit(what, key, bound(most)).0;
    let (mut one, mut strangers) = (None, None);
    if let Some(key) = stranger {
        one = Some(admit(STRANGERS_AT_ONE, key, most.div_ceil(STRANGERS_SHARE))?);
        strangers = Some(admit(STRANGERS, server, most - most / KEPT_SHARE)?);
    }
    Some([one, strangers, Some(admit(ASKING, server, most)?)])
}
