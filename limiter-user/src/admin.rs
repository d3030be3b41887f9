//! The agent's control socket: HTTP over a Unix socket, for the command line and for people.
//!
//! `server` speaks HTTP and knows no agent; the agent implements [`Backend`]; `view` is what both
//! the server and the command line's client read and write as JSON.

mod accept;
mod bulk;
pub mod client;
mod follow;
mod io;
mod lists;
pub mod metrics;
mod query;
mod routes;
pub mod server;
pub mod view;

use std::{future::Future, net::IpAddr, time::Duration};

use ipnet::IpNet;

use self::view::{
    BanRequest, BanView, Failure, ListChange, ListKind, ListOrigin, ListsView, PacketQuery,
    ReloadView, RequestQuery, SourceSort, SourceView, StatusView, TopView, WhyView,
};
use crate::{
    events::stream::EventStream,
    policy::{Networks, kernel::Trusted},
};

/// What the control socket can ask of the agent. All but `change_lists`, `reload`, `saved` and
/// `sources` answer at once.
pub trait Backend: 'static {
    /// Everything about the running agent.
    fn status(&self) -> StatusView;
    /// Tracked sources, sorted, at most `limit`. Others get their turn meanwhile.
    fn sources(
        &self,
        sort: SourceSort,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<SourceView>, Failure>>;
    /// What sources do per second, sorted, at most `limit`. Whoever asks begins to watch.
    fn top(&self, sort: SourceSort, limit: usize) -> Result<TopView, Failure>;
    /// Adds or replaces a ban. It is in force at once, and on disk as [`Self::saved`] says.
    fn ban(&self, request: &BanRequest) -> Result<BanView, Failure>;
    /// As [`Self::ban`], for one of many.
    fn add_ban(&self, request: &BanRequest) -> Result<(), Failure>;
    /// Waits until every ban made or lifted so far is on disk, or cannot be written, and why.
    fn saved(&self) -> impl Future<Output = Result<(), String>>;
    /// Whether whoever bans many should wait for [`Self::saved`] before the next.
    fn must_wait(&self) -> bool;
    /// Lifts bans inside `prefix`, of both scopes; how many there were.
    fn unban(&self, prefix: IpNet) -> Result<usize, Failure>;
    /// Every ban in force.
    fn bans(&self) -> Result<Vec<BanView>, Failure>;
    /// Changes lists, all of it or nothing; in force when it returns.
    fn change_lists(&self, change: ListChange) -> impl Future<Output = Result<ListsView, Failure>>;
    /// The entries of one list from one origin, each with the interface that it is bound to.
    fn list(&self, kind: ListKind, origin: ListOrigin) -> Listing;
    /// Why a source is treated as it is.
    fn why(&self, source: IpAddr, packet: Option<PacketQuery>) -> Result<WhyView, Failure>;
    /// What would happen to a request that nobody sent, and by which rule.
    fn explain(&self, request: &RequestQuery) -> Result<WhyView, Failure>;
    /// Reads the configuration again; an invalid one changes nothing. `confirm`: undone after so
    /// long unless confirmed.
    fn reload(
        &self,
        confirm: Option<Duration>,
    ) -> impl Future<Output = Result<ReloadView, Failure>>;
    /// Keeps what a reload put in force on trial.
    fn confirm_reload(&self) -> Result<ReloadView, Failure>;
    /// Takes XDP off every interface and removes the pins; the agent goes on without it.
    fn detach(&self) -> Result<Vec<String>, Failure>;
    /// The stream to follow events on.
    fn events(&self) -> &EventStream;
}

/// Entries of a list; a copy costs little however many they are.
#[derive(Clone, Debug)]
pub enum Listing {
    /// For every interface.
    Everywhere(Networks),
    /// Some for one interface only.
    Trusted(Vec<Trusted>),
}

/// Name of the control socket in the agent's runtime directory.
pub const SOCKET_NAME: &str = "control.sock";
