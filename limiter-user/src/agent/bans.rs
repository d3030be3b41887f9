//! Bans made and lifted, wherever they are enforced.

use std::{borrow::Cow, time::Duration};

use ipnet::IpNet;

use super::{Agent, Inner, book, book::Now, problems::Problem, safety::ban_prefix};
use crate::{
    admin::view::{BanRequest, Failure},
    clock,
    events::{Event, Evidence},
    kernel::KernelError,
    link::HttpBan,
    policy::{BanScope, Mode},
};

/// The longest ban: ten years.
const MAX_BAN_SECONDS: u64 = 10 * 365 * 86_400;

/// Characters of a reason that are kept.
const MAX_REASON: usize = 200;

/// A ban to be made.
#[derive(Debug)]
pub(super) struct BanOrder {
    pub(super) prefix: IpNet,
    pub(super) scope: BanScope,
    pub(super) length: Duration,
    pub(super) reason: String,
    /// `manual`, `escalation`, or which host shared it.
    pub(super) origin: Cow<'static, str>,
    /// What it is for, where the agent decided it.
    pub(super) evidence: Option<Box<Evidence>>,
}

impl Agent {
    /// What a request asks for, unless it is a mistake or would hit somebody it should not.
    pub(super) fn order(&self, request: &BanRequest) -> Result<BanOrder, Failure> {
        let prefix = widen(request.scope, request.prefix);
        if !(1..=MAX_BAN_SECONDS).contains(&request.seconds) {
            return Err(Failure::invalid(format!(
                "a ban lasts 1 to {MAX_BAN_SECONDS} seconds, not {}",
                request.seconds,
            )));
        }
        if let Some(objection) = self.inner.borrow().safety.objection(prefix, request.session) {
            if !objection.can_be_forced() {
                return Err(Failure::refused(format!(
                    "{prefix} is not banned: {}; remove it there first",
                    objection.reason(),
                )));
            }
            if !request.force {
                return Err(Failure::refused(format!(
                    "{prefix} is not banned: {} (--force overrides)",
                    objection.reason(),
                )));
            }
        }
        let reason = if request.reason.is_empty() { "by hand" } else { &request.reason };
        Ok(BanOrder {
            prefix,
            scope: request.scope,
            length: Duration::from_secs(request.seconds),
            reason: reason.chars().filter(|c| !c.is_control()).take(MAX_REASON).collect(),
            origin: "manual".into(),
            evidence: None,
        })
    }

    /// Puts a ban in force, in the kernel or the proxy, and says so. It is on disk when
    /// [`super::journal::Journal::committed`] says so, within a second in any case.
    pub(super) fn enforce_ban(&self, order: BanOrder) -> Result<book::Ban, KernelError> {
        let BanOrder { prefix, scope, length, reason, origin, evidence } = order;
        let length_ns = nanoseconds(length);
        let expires_ns = clock::monotonic_ns().saturating_add(length_ns);
        let ban =
            book::Ban { prefix, scope, expires_ns, length_ns, reason, origin: origin.into_owned() };
        {
            let mut inner = self.inner.borrow_mut();
            let made = put_in_force(&mut inner, &ban);
            if let Err(KernelError::Full(_)) = &made {
                *inner.bans_refused.entry(table(&ban)).or_default() += 1;
            }
            made?;
            if let (BanScope::Kernel, Some(kernel)) = (scope, inner.kernel.as_ref()) {
                // Its packets end from here on; its connections would otherwise linger.
                kernel.end_connections(prefix);
            }
            inner.book.insert(ban.clone());
        }
        match scope {
            BanScope::Kernel => self.outbox.close(prefix),
            BanScope::Http => self.tell_http_ban(HttpBan { prefix, expires_ns }),
        }
        self.share_ban(&ban);
        let told = match ban.origin.as_str() {
            "manual" | "escalation" => Cow::Borrowed(ban.reason.as_str()),
            origin => Cow::Owned(format!("{} ({origin})", ban.reason)),
        };
        let event = Event::banned(clock::unix_ns(), prefix, length, &told, Mode::Enforce);
        self.publish(Event { evidence, ..event });
        Ok(ban)
    }

    fn tell_http_ban(&self, ban: HttpBan) {
        if !self.outbox.add(ban) {
            self.proxy_missed.set(true);
        }
    }

    /// Lifts these bans and says so.
    pub(super) fn lift(
        &self,
        which: impl Fn(&book::Ban) -> bool,
    ) -> Result<Vec<book::Ban>, KernelError> {
        let lifted = {
            let mut inner = self.inner.borrow_mut();
            let inner = &mut *inner;
            let lifted = inner.book.remove_where(which);
            for ban in &lifted {
                if let (BanScope::Kernel, Some(kernel)) = (ban.scope, inner.kernel.as_mut()) {
                    kernel.unban(ban.prefix)?;
                }
            }
            lifted
        };
        for ban in &lifted {
            if ban.scope == BanScope::Http {
                self.tell_http_ban(HttpBan { prefix: ban.prefix, expires_ns: 0 });
            }
            self.publish(Event::unbanned(clock::unix_ns(), ban.prefix));
        }
        Ok(lifted)
    }

    /// Trusted sources are never banned: the packet path relies on it. A kernel ban of a /64 goes
    /// for one trusted address in it; larger prefixes are carved.
    pub(super) fn lift_bans_of_trusted(&self) {
        let trusted = self.inner.borrow().safety.trusted.clone();
        let spared = match self.inner.borrow_mut().kernel.as_mut() {
            Some(kernel) => kernel.spare(&trusted),
            None => Ok(()),
        };
        let hits = |ban: &book::Ban| {
            let is_exact =
                ban.scope == BanScope::Kernel && ban_prefix(ban.prefix.addr()) == ban.prefix;
            trusted.iter().any(|network| {
                network.contains(&ban.prefix) || (is_exact && ban.prefix.contains(network))
            })
        };
        let lifted = spared.and_then(|()| self.lift(hits));
        self.judge(Problem::BanTable, lifted.map(drop).map_err(|error| error.to_string()));
    }

    /// Bans of the book into the kernel, and bans that only the kernel remembers into the book.
    /// `since`: when the book was opened.
    pub(super) fn restore_bans(&self, since: Now) {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        let now_ns = clock::monotonic_ns();
        let Some(kernel) = inner.kernel.as_mut() else { return };
        let mut table = kernel.spare(&inner.safety.trusted);
        let mut known = std::collections::HashSet::new();
        for (prefix, ban) in kernel.bans() {
            if ban.expires_ns <= now_ns {
                table = table.and(kernel.unban(prefix).map(drop));
                continue;
            }
            // What a prefix ban's entry says may be the expiry of one around it.
            if ban_prefix(prefix.addr()) == prefix {
                known.insert(prefix);
                if inner.book.set_expiry(prefix, BanScope::Kernel, ban.expires_ns) {
                    continue;
                }
            } else if inner.book.get(prefix, BanScope::Kernel).is_some() {
                continue;
            }
            inner.book.insert(book::Ban {
                prefix,
                scope: BanScope::Kernel,
                expires_ns: ban.expires_ns,
                length_ns: ban.expires_ns - now_ns,
                reason: "in force when the agent started".to_owned(),
                origin: "restored".to_owned(),
            });
        }
        let missing = inner
            .book
            .iter()
            .filter(|ban| ban.scope == BanScope::Kernel && !known.contains(&ban.prefix));
        let restored = kernel.restore_bans(missing.map(|ban| (ban.prefix, ban.expires_ns)));
        let (left_out, why) = restored.unwrap_or_else(|error| (Vec::new(), Some(error)));
        if let Some(why) = why {
            // What is not in force is not listed as if it were.
            for prefix in &left_out {
                inner.book.set_aside(*prefix, BanScope::Kernel);
            }
            let sentence = format!("bans that could not be restored: {}: {why}", left_out.len());
            inner.problems.begin(Problem::BansLeftOut, sentence);
        }
        if let Err(error) = table {
            inner.problems.begin(Problem::BanTable, error.to_string());
        }
        let took_ns = clock::monotonic_ns().saturating_sub(since.monotonic_ns);
        inner.restored = (inner.book.iter().count(), Duration::from_nanos(took_ns));
    }
}

fn put_in_force(inner: &mut Inner, ban: &book::Ban) -> Result<(), KernelError> {
    if !inner.book.has_room_for(ban) {
        return Err(KernelError::Full(format!(
            "the book of http bans is full (at most {}, of which {} of networks)",
            book::MAX_HTTP_BANS,
            book::MAX_HTTP_NETWORKS,
        )));
    }
    match (ban.scope, inner.kernel.as_mut()) {
        (BanScope::Http, _) => Ok(()),
        (BanScope::Kernel, Some(kernel)) => kernel.ban(ban.prefix, ban.expires_ns),
        (BanScope::Kernel, None) => Err(KernelError::Host("the kernel half is off".to_owned())),
    }
}

/// Which table a ban lies in, as the status names it.
fn table(ban: &book::Ban) -> &'static str {
    match ban.scope {
        BanScope::Http => "http",
        BanScope::Kernel if ban_prefix(ban.prefix.addr()) == ban.prefix => "bans",
        BanScope::Kernel => "prefix_bans",
    }
}

/// Both clocks.
pub(super) fn now() -> Now {
    Now { monotonic_ns: clock::monotonic_ns(), unix_ns: clock::unix_ns() }
}

/// What a ban of this scope can be of: in the kernel IPv6 is banned by /64 or shorter.
fn widen(scope: BanScope, prefix: IpNet) -> IpNet {
    match (scope, prefix.trunc()) {
        (BanScope::Kernel, IpNet::V6(v6)) if v6.prefix_len() > 64 => ban_prefix(v6.addr().into()),
        (_, prefix) => prefix,
    }
}

/// Whole nanoseconds, saturating.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
