//! What comes before HTTP on a connection: the PROXY protocol's header, then TLS.
//!
//! In: an accepted socket; out: a stream of HTTP, or nothing, with what is wrong counted and told.
//! All of it within one deadline.

use std::{net::IpAddr, rc::Rc};

use tokio::io::AsyncReadExt as _;

use super::{tell, unless_ended};
use crate::{
    proxy::{
        clients::Permit,
        core::{Core, InForce},
        listener,
        proxy_protocol::{self, Parsed},
        registry::{Connection, Ended},
        stream::ClientStream,
        tls,
        transport::{Socket, Transport},
    },
    refusal::Refusal,
};

/// Why there is no stream.
enum Failed {
    /// This is to be told.
    Refused(Refusal),
    /// The client went, or speaks no TLS that is accepted.
    Gone,
}

/// Does what the listener asks for. The permit is the client's, where a proxy speaks for it.
pub(super) async fn open(
    core: &Rc<Core>,
    state: &Rc<Connection>,
    in_force: &InForce,
    socket: Socket,
    permit: Permit,
) -> Option<(ClientStream, Permit)> {
    let listener = state.listener();
    let mut permit = permit;
    let mut socket = socket;
    if listener.proxy_protocol {
        state.begin_opening(in_force.policy.timeouts.header);
        let introduced = unless_ended(state, introduce(state, in_force, &mut socket)).await;
        match introduced.unwrap_or_else(|ended| Err(Failed::of(ended))) {
            Ok(None) => {}
            Ok(Some(client)) => {
                state.set_source(client);
                let Some(own) = listener::admit(core, in_force, client) else {
                    listener::refuse(core, None, client);
                    return None;
                };
                permit = own;
            }
            Err(failed) => return failed.tell(core, state),
        }
    }
    let transport = match &listener.tls {
        None => Transport::Plain(socket),
        Some(config) => {
            state.begin_opening(in_force.policy.timeouts.handshake);
            let handshake = unless_ended(state, tls::accept(config, socket)).await;
            let failed = match handshake {
                Ok(Ok((stream, facts))) => {
                    core.counters.handshake(facts.is_resumed);
                    state.set_tls(facts);
                    let transport = Transport::Tls(stream);
                    state.begin_waiting();
                    return Some((ClientStream::new(transport, Rc::clone(state)), permit));
                }
                Ok(Err(error)) => tls::blame(&error).map_or(Failed::Gone, Failed::Refused),
                Err(ended) => Failed::of(ended),
            };
            core.counters.handshakes_failed.bump();
            return failed.tell(core, state);
        }
    };
    state.begin_waiting();
    Some((ClientStream::new(transport, Rc::clone(state)), permit))
}

/// Reads who a trusted proxy says that the client is.
async fn introduce(
    state: &Connection,
    in_force: &InForce,
    socket: &mut Socket,
) -> Result<Option<IpAddr>, Failed> {
    let trusted = &in_force.policy.trusted_proxies;
    if !trusted.iter().any(|prefix| prefix.contains(&state.peer)) {
        return Err(Failed::Refused(Refusal::ForbiddenAddress));
    }
    let mut read = Vec::new();
    loop {
        let mut bytes = [0; 256];
        let room = bytes.len().min(proxy_protocol::MAX_BYTES - read.len());
        match socket.read(&mut bytes[..room]).await {
            Ok(0) | Err(_) => return Err(Failed::Gone),
            Ok(count) => read.extend_from_slice(&bytes[..count]),
        }
        match proxy_protocol::parse(&read) {
            Parsed::Whole(header) => {
                read.drain(..header.bytes);
                socket.put_back(read);
                return Ok(header.source);
            }
            Parsed::Partial if read.len() < proxy_protocol::MAX_BYTES => {}
            Parsed::Partial | Parsed::Malformed => {
                return Err(Failed::Refused(Refusal::MalformedRequest));
            }
        }
    }
}

impl Failed {
    fn of(ended: Ended) -> Self {
        match ended {
            Ended::Opening | Ended::HeadTimeout => Self::Refused(Refusal::Timeout),
            Ended::Idle | Ended::Aborted => Self::Gone,
        }
    }

    fn tell<T>(self, core: &Core, state: &Connection) -> Option<T> {
        if let Self::Refused(refusal) = self {
            tell(core, state, refusal);
        }
        None
    }
}
