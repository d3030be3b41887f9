//! The proxy process: every request from outside is read here, without privileges.
//!
//! In: a link to the agent, listening sockets and a policy on it; out: requests to upstreams, and
//! what was observed to the agent. Never reads configuration, secrets or the kernel's maps.
//!
//! ```text
//! listener -> connection (PROXY, TLS, HTTP/1 or 2) -> pipeline::admit (stage/*) -> Cleared -> upstream -> response
//! ```
//!
//! One thread per core, each with a runtime, pools and bans of its own (`core`); the main
//! thread (`conductor`) stands between them and the agent.

mod accepted;
mod access_log;
mod authority;
mod body;
mod checked;
mod clients;
mod compiled;
mod compiled_auth;
mod compiled_cors;
mod compiled_guard;
mod compiled_jwt;
mod compiled_limits;
mod compiled_listener;
mod conductor;
mod connection;
mod content;
mod core;
mod cores;
pub(crate) mod diagnostics;
mod exchange;
pub(crate) mod explain;
mod forward_auth;
mod framing;
#[doc(hidden)]
pub mod fuzzing;
mod identity;
mod jwks;
mod lasting;
mod limiting;
mod listener;
mod meeting;
mod once;
mod outbox;
mod outcomes;
mod overload;
mod pace;
mod peers;
mod pipeline;
pub mod privileges;
mod proof;
mod proxy_protocol;
mod recent;
mod registry;
mod reply;
mod report;
mod shared_limits;
mod shared_store;
mod spelling;
mod stage;
mod stream;
#[cfg(test)]
mod tests;
mod tls;
mod tokens;
mod transport;
mod upstream;
mod watch;

use std::{io, os::unix::net::UnixStream, process::ExitCode, thread::available_parallelism};

use tokio::runtime::LocalOptions;

use crate::link::{LINK_FD, codec::Link, descriptors};

/// How many cores to use; default: all that this process may run on.
pub const THREADS_VARIABLE: &str = "LIMITER_PROXY_THREADS";

/// The whole life of the proxy process (`limiter proxy`), started by the agent with its end of
/// the socketpair as [`LINK_FD`]. To be called before anything else opens files or makes threads.
pub fn run() -> ExitCode {
    diagnostics::start();
    let started = privileges::drop_all(LINK_FD).and_then(|()| {
        let link = UnixStream::from(descriptors::inherited(LINK_FD)?);
        serve(link, threads())
    });
    started.unwrap_or_else(|error| {
        log::error!("the proxy cannot run: {error}");
        ExitCode::FAILURE
    })
}

/// Serves on `link` with this many threads besides the calling one, until told to drain.
pub fn serve(link: UnixStream, threads: usize) -> io::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())?;
    runtime.block_on(async { conductor::conduct(Link::from_std(link)?, threads).await })
}

fn threads() -> usize {
    std::env::var(THREADS_VARIABLE)
        .ok()
        .and_then(|text| text.parse().ok())
        .filter(|threads| (1..=1024).contains(threads))
        .unwrap_or_else(|| available_parallelism().map_or(1, usize::from))
}
