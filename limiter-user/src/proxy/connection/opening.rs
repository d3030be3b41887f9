//! What comes before HTTP on a connection: the PROXY protocol's header, then TLS.
//!
//! In: an accepted socket; out: a stream of HTTP, or nothing, with what is wrong counted and told.
//! All of it within one deadline.

use std::{net::IpAddr, rc::Rc};

use tokio::io::AsyncReadExt as _;

use super::{tell, unless_ended};
use crate::{
    clock,
    proxy::{
        clients::Permit,
        core::{Core, InForce},
        listener,
        proxy_protocol::{self, Parsed},
        registry::{Connection, Ended},
        stage::{bans, client_address},
        stream::ClientStream,
        tls,
        transport::{Socket, Transport},
    },
    refusal::Refusal,
};

/// What plain HTTP is answered where TLS is spoken: whoever sees it is most likely a person who
/// mistyped an address.
const PLAIN_ON_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\
    content-type: text/plain\r\ncontent-length: 50\r\n\r\n\
    400 The plain HTTP request was sent to HTTPS port\n";

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
            if is_banned(core, state, in_force) {
                // The most expensive thing that a client can ask for.
                socket.set_zero_linger();
                return Failed::Refused(Refusal::Banned).tell(core, state);
            }
            state.begin_opening(in_force.policy.timeouts.handshake);
            // Sooner than the library, which would send an alert before any answer.
            let first = unless_ended(state, socket.peek()).await;
            if matches!(first, Ok(Ok(Some(b'A'..=b'Z')))) {
                core.part(socket, PLAIN_ON_TLS);
                return Failed::Refused(Refusal::HttpsRequired).tell(core, state);
            }
            let handshake = match first {
                Ok(Ok(_)) => unless_ended(state, tls::accept(config, socket)).await,
                Ok(Err(error)) => Ok(Err(error)),
                Err(ended) => Err(ended),
            };
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

/// Whether the client is banned, as far as the connection says who it is.
fn is_banned(core: &Core, state: &Connection, in_force: &InForce) -> bool {
    let client = client_address::before_request(&in_force.policy, (state.peer, state.source()));
    let now_ns = clock::coarse_monotonic_ns();
    client.is_some_and(|client| bans::check(&core.bans.borrow(), &client, now_ns).is_err())
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
