//! Bans on their way to the proxy: what gathers within a few milliseconds is one message.
//!
//! The first goes out at once. Bounded: whoever finds no room keeps its connections until they end
//! by themselves (its packets are dropped), counted; bans of scope `http` are then sent whole.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use ipnet::IpNet;
use tokio::sync::Notify;

use super::Agent;
use crate::link::{HttpBan, ToProxy};

/// Pause between two messages.
const PAUSE: Duration = Duration::from_millis(5);

/// Prefixes of each kind that may wait.
const MAX_WAITING: usize = 65_536;

/// What waits to be told.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    closing: RefCell<Vec<IpNet>>,
    http: RefCell<Vec<HttpBan>>,
    filled: Notify,
    /// Sources whose connections nobody was told to end.
    pub(super) overflowed: Cell<u64>,
}

impl Outbox {
    /// The source was banned in the kernel: its connections would otherwise linger.
    pub(super) fn close(&self, prefix: IpNet) {
        let mut closing = self.closing.borrow_mut();
        if closing.len() >= MAX_WAITING {
            self.overflowed.set(self.overflowed.get() + 1);
            return;
        }
        closing.push(prefix);
        self.filled.notify_one();
    }

    /// A ban of scope `http`, or its end; `false`: the whole list must be sent.
    pub(super) fn add(&self, ban: HttpBan) -> bool {
        let mut http = self.http.borrow_mut();
        if http.len() >= MAX_WAITING {
            return false;
        }
        http.push(ban);
        self.filled.notify_one();
        true
    }

    /// The whole list is sent instead.
    pub(super) fn clear_http(&self) {
        self.http.borrow_mut().clear();
    }
}

/// Tells the proxy, for as long as the agent lives.
pub(super) async fn run(agent: Rc<Agent>) {
    loop {
        agent.outbox.filled.notified().await;
        let closing = agent.outbox.closing.take();
        if !closing.is_empty() {
            agent.tell_proxy(ToProxy::CloseConnections(closing));
        }
        let http = agent.outbox.http.take();
        if !http.is_empty() {
            agent.tell_proxy(ToProxy::AddHttpBans(http));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_and_counted() {
        let outbox = Outbox::default();
        let prefix: IpNet = "192.0.2.1/32".parse().unwrap();
        for _ in 0..MAX_WAITING + 3 {
            outbox.close(prefix);
        }
        assert_eq!(outbox.overflowed.get(), 3);
        let ban = HttpBan { prefix, expires_ns: 1 };
        assert_eq!((0..MAX_WAITING + 3).filter(|_| !outbox.add(ban)).count(), 3);
        outbox.clear_http();
        assert!(outbox.add(ban));
    }
}
