//! The upstreams of the policies, with what is known of their servers from one to the next.
//!
//! In: policies; out: upstreams that all cores share. A server that stays the same keeps its state.

use std::sync::{Arc, Weak};

use tokio::sync::mpsc;

use super::{
    probe,
    server::{Identity, Server},
    tls::{Tls, Verifier},
};
use crate::{
    link::{ServerCount, ServerNotice},
    policy::upstream::{Balance, Scheme, UpstreamPolicy},
};

/// Notices that may wait for the link.
const NOTICES: usize = 256;

/// One upstream, as all cores share it.
#[derive(Debug)]
pub(in crate::proxy) struct Upstream {
    pub(super) servers: Vec<Arc<Server>>,
    pub(super) balance: Balance,
    pub(super) retries: u32,
}

/// All of them. One that no policy names is forgotten with its last request.
#[derive(Debug)]
pub(in crate::proxy) struct Directory {
    cores: usize,
    notices: mpsc::Sender<ServerNotice>,
    servers: Vec<Arc<Server>>,
    /// Not yet asked whether they are well.
    new: Vec<Weak<Server>>,
}

impl Directory {
    /// For so many cores; what changes comes out of the receiver.
    pub(in crate::proxy) fn new(cores: usize) -> (Self, mpsc::Receiver<ServerNotice>) {
        let (notices, receiver) = mpsc::channel(NOTICES);
        (Self { cores, notices, servers: Vec::new(), new: Vec::new() }, receiver)
    }

    /// The upstreams of a policy; nothing changes where one cannot be used.
    pub(in crate::proxy) fn select(
        &mut self,
        policies: &[UpstreamPolicy],
    ) -> Result<Vec<Arc<Upstream>>, String> {
        let mut servers = Vec::new();
        let mut new = Vec::new();
        let mut upstreams = Vec::new();
        for policy in policies {
            let mine = self.servers_of(policy, &mut new)?;
            servers.extend(mine.iter().cloned());
            upstreams.push(Arc::new(Upstream {
                servers: mine,
                balance: policy.balance,
                retries: policy.retries,
            }));
        }
        self.servers = servers;
        self.new = new;
        Ok(upstreams)
    }

    fn servers_of(
        &self,
        policy: &UpstreamPolicy,
        new: &mut Vec<Weak<Server>>,
    ) -> Result<Vec<Arc<Server>>, String> {
        let roots = Arc::new(policy.roots.clone());
        let mut verifier = None;
        let mut servers = Vec::new();
        for server in &policy.servers {
            let identity = Identity {
                upstream: policy.name.clone(),
                server: server.clone(),
                health: policy.health.clone(),
                breaker: policy.breaker,
                roots: Arc::clone(&roots),
            };
            if let Some(known) = self.servers.iter().find(|known| known.identity == identity) {
                servers.push(Arc::clone(known));
                continue;
            }
            let tls = if server.scheme == Scheme::Https {
                let verifier: &Verifier = match &mut verifier {
                    Some(verifier) => verifier,
                    none => none.insert(Verifier::new(&policy.roots)?),
                };
                Some(Tls::new(verifier.clone(), &server.host)?)
            } else {
                None
            };
            let made = Arc::new(Server::new(identity, tls, self.cores, self.notices.clone()));
            new.push(Arc::downgrade(&made));
            servers.push(made);
        }
        if servers.is_empty() {
            return Err(format!("upstream {}: no server", policy.name));
        }
        Ok(servers)
    }

    /// Begins to ask servers that are new whether they are well, and where they are. On the thread
    /// of the conductor: one question for the whole process.
    pub(in crate::proxy) fn watch_new(&mut self) {
        for server in self.new.drain(..) {
            probe::watch(server);
        }
    }

    /// What every server was sent.
    pub(in crate::proxy) fn counts(&self) -> Vec<ServerCount> {
        self.servers.iter().map(|server| server.count()).collect()
    }
}
