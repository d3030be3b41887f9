//! All connections of one core, by place.

use std::{cell::RefCell, rc::Rc};

use tokio::sync::Notify;

use super::Connection;
use crate::proxy::{peers::Peers, proof::Client};

/// The connections of one core.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Registry {
    places: RefCell<Places>,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct Places {
    connections: Vec<Option<Rc<Connection>>>,
    free: Vec<usize>,
    open: usize,
    draining: bool,
}

impl Registry {
    /// Adds a connection; the place is for [`Self::remove`].
    pub(in crate::proxy) fn insert(&self, connection: Rc<Connection>) -> usize {
        let mut places = self.places.borrow_mut();
        connection.draining.set(places.draining);
        places.open += 1;
        if let Some(place) = places.free.pop() {
            places.connections[place] = Some(connection);
            place
        } else {
            places.connections.push(Some(connection));
            places.connections.len() - 1
        }
    }

    pub(in crate::proxy) fn remove(&self, place: usize) {
        let mut places = self.places.borrow_mut();
        places.connections[place] = None;
        places.free.push(place);
        places.open -= 1;
        if places.open == 0 {
            self.emptied.notify_one();
        }
    }

    pub(in crate::proxy) fn is_empty(&self) -> bool {
        self.places.borrow().open == 0
    }

    /// Ends the connections of these peers at once.
    pub(in crate::proxy) fn close(&self, peers: &Peers) {
        self.each(|connection| {
            if peers.contains(connection.peer) {
                connection.abort();
            }
        });
    }

    /// Ends the tunnels of these clients at once.
    pub(in crate::proxy) fn close_tunnels(&self, of: impl Fn(&Client) -> bool) {
        self.each(|connection| {
            if connection.tunnelling.get().is_some_and(|client| of(&client)) {
                connection.abort();
            }
        });
    }

    /// Ends all connections at once.
    pub(in crate::proxy) fn close_all(&self) {
        self.each(Connection::abort);
    }

    /// Lets connections end after their next answer, which says so, later ones too. One that is
    /// idle is not closed at once: its next request may be on the way.
    pub(in crate::proxy) fn drain(&self) {
        self.places.borrow_mut().draining = true;
        self.each(Connection::drain);
    }

    /// Waits until no connection is open.
    pub(in crate::proxy) async fn emptied(&self) {
        while !self.is_empty() {
            self.emptied.notified().await;
        }
    }

    /// Tells the connections whose deadline has passed; where it is crowded, those too whose client
    /// is gone most likely.
    pub(in crate::proxy) fn expire(&self, now_ns: u64, is_crowded: bool) {
        self.each(|connection| connection.expire(now_ns, is_crowded));
    }

    fn each(&self, mut act: impl FnMut(&Connection)) {
        for connection in self.places.borrow().connections.iter().flatten() {
            act(connection);
        }
    }
}
