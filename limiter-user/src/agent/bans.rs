//! Bans made and lifted, wherever they are enforced.

use std::time::Duration;

use ipnet::IpNet;

use super::{Agent, book};
use crate::{
    clock,
    events::Event,
    kernel::KernelError,
    link::{HttpBan, ToProxy},
    policy::{BanScope, Mode},
};

/// A ban to be made.
#[derive(Debug)]
pub(super) struct BanOrder {
    pub(super) prefix: IpNet,
    pub(super) scope: BanScope,
    pub(super) length: Duration,
    pub(super) reason: String,
    /// `manual` or `escalation`.
    pub(super) origin: &'static str,
}

impl Agent {
    /// Puts a ban in force, in the kernel or the proxy, and says so.
    pub(super) fn enforce_ban(&self, order: BanOrder) -> Result<book::Ban, KernelError> {
        let BanOrder { prefix, scope, length, reason, origin } = order;
        let now_unix_ns = clock::unix_ns();
        let expires_ns = clock::monotonic_ns().saturating_add(nanoseconds(length));
        let expires_unix_ns = now_unix_ns.saturating_add(nanoseconds(length));
        let origin = origin.to_owned();
        let ban = book::Ban { prefix, scope, expires_unix_ns, reason, origin };
        {
            let mut inner = self.inner.borrow_mut();
            if !inner.book.has_room_for(&ban) {
                return Err(KernelError::Full(format!(
                    "the book of http bans is full (at most {}, of which {} of networks)",
                    book::MAX_HTTP_BANS,
                    book::MAX_HTTP_NETWORKS,
                )));
            }
            match ban.scope {
                BanScope::Kernel => {
                    let Some(kernel) = inner.kernel.as_mut() else {
                        return Err(KernelError::Host("the kernel half is off".to_owned()));
                    };
                    kernel.ban(ban.prefix.addr(), expires_ns)?;
                    kernel.end_connections(ban.prefix);
                    // Its packets end from here on; its connections would otherwise linger.
                    self.tell_proxy(ToProxy::CloseConnections(ban.prefix));
                }
                BanScope::Http => {
                    self.tell_proxy(ToProxy::AddHttpBan(HttpBan { prefix, expires_ns }));
                }
            }
            inner.book.insert(ban.clone());
        }
        self.publish(Event::banned(now_unix_ns, prefix, length, &ban.reason, Mode::Enforce));
        Ok(ban)
    }

    /// Lifts these bans and says so; how many.
    pub(super) fn lift(&self, which: impl Fn(&book::Ban) -> bool) -> Result<usize, KernelError> {
        let lifted = {
            let mut inner = self.inner.borrow_mut();
            let inner = &mut *inner;
            let lifted = inner.book.remove_where(which);
            for ban in &lifted {
                if let (BanScope::Kernel, Some(kernel)) = (ban.scope, inner.kernel.as_mut()) {
                    kernel.unban(ban.prefix.addr())?;
                }
            }
            lifted
        };
        for ban in &lifted {
            if ban.scope == BanScope::Http {
                self.tell_proxy(ToProxy::AddHttpBan(HttpBan { prefix: ban.prefix, expires_ns: 0 }));
            }
            self.publish(Event::unbanned(clock::unix_ns(), ban.prefix));
        }
        Ok(lifted.len())
    }

    /// Trusted sources are never banned: the packet path relies on it. A kernel ban of a /64 goes
    /// for one trusted address in it.
    pub(super) fn lift_bans_of_trusted(&self) {
        let trusted = self.inner.borrow().safety.trusted.clone();
        let hits = |ban: &book::Ban| {
            trusted.iter().any(|network| {
                let whole = ban.scope == BanScope::Kernel && ban.prefix.contains(network);
                whole || network.contains(&ban.prefix)
            })
        };
        let lifted = self.lift(hits).map(drop).map_err(|error| error.to_string());
        self.judge(super::problems::Problem::BanTable, lifted);
    }
}

/// Whole nanoseconds, saturating.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
