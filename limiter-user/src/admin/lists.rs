//! `/v1/lists`: lines in, one change out; entries in, a stream of JSON out.
//!
//! A request is gathered whole, within bounds, before anything of it is done.

use hyper::body::{Bytes, Incoming};
use ipnet::IpNet;
use tokio::sync::mpsc;

use super::{
    Backend, Listing,
    bulk::Lines,
    view::{Failure, ListChange, ListEntryRequest, ListEntryView, ListKind, ListOrigin, ListsView},
};
use crate::policy::{Networks, kernel::Trusted};

/// Most entries of one request: what the kernel has room for.
const MAX_ENTRIES: usize = 2 << 20;

/// Entries of an answer that are written before others get their turn.
const ENTRIES_AT_ONCE: usize = 1_024;

/// Entries by list, to be saved and volatile, and those that were not forced.
#[derive(Default)]
struct Gathered {
    networks: [[Vec<IpNet>; 2]; 3],
    unforced: [Vec<IpNet>; 3],
    session: Option<std::net::IpAddr>,
    count: usize,
}

/// Reads a request and carries it out.
pub(super) async fn change<B: Backend>(
    backend: &B,
    body: Incoming,
    removes: bool,
    replaces: Option<(ListKind, ListOrigin)>,
) -> Result<ListsView, Failure> {
    let mut gathered = Gathered::default();
    let mut lines = Lines::new(body);
    if lines.are_several().await? {
        let mut number = 0_u64;
        while let Some(part) = lines.next_part().await? {
            for line in part.split(|byte| *byte == b'\n') {
                number += 1;
                let line = line.trim_ascii();
                if !line.is_empty() {
                    gathered.take(line).map_err(|failure| at(number, failure))?;
                }
            }
            tokio::task::yield_now().await;
        }
    } else {
        let whole = lines.whole().await?;
        // A list that is to be empty needs no entry.
        if replaces.is_none() || !whole.trim_ascii().is_empty() {
            gathered.take(whole.trim_ascii())?;
        }
    }
    let Gathered { networks, unforced, session, .. } = gathered;
    let change = ListChange {
        removes,
        replaces,
        networks: networks.map(|both| both.map(Networks::from)),
        unforced: unforced.map(Networks::from),
        session,
    };
    if let Some((kind, origin)) = replaces {
        let expected = usize::from(origin == ListOrigin::Runtime);
        let is_elsewhere = ListKind::ALL.into_iter().any(|other| {
            let [saved, volatile] = &change.networks[other as usize];
            let others = if expected == 0 { volatile } else { saved };
            !others.is_empty() || (other != kind && !(saved.is_empty() && volatile.is_empty()))
        });
        if is_elsewhere {
            return Err(Failure::invalid(format!(
                "`replace={}`: every entry must be of that list, and all alike volatile or not",
                kind.label()
            )));
        }
    }
    backend.change_lists(change).await
}

fn at(number: u64, Failure { status, message }: Failure) -> Failure {
    Failure { status, message: format!("line {number}: {message}; nothing is changed") }
}

impl Gathered {
    fn take(&mut self, json: &[u8]) -> Result<(), Failure> {
        let entry: ListEntryRequest = serde_json::from_slice(json)
            .map_err(|error| Failure::invalid(format!("not an entry of a list: {error}")))?;
        self.count += 1;
        if self.count > MAX_ENTRIES {
            return Err(Failure::full(format!("more than {MAX_ENTRIES} entries in one request")));
        }
        let number = entry.list as usize;
        self.networks[number][usize::from(entry.runtime)].push(entry.prefix);
        if !entry.force {
            self.unforced[number].push(entry.prefix);
            self.session = self.session.or(entry.session.map(|peer| peer.to_canonical()));
        }
        Ok(())
    }
}

/// Every entry as one JSON document, in parts.
pub(super) fn entries<B: Backend>(backend: &B, only: Option<ListKind>) -> mpsc::Receiver<Bytes> {
    let kinds = ListKind::ALL.into_iter().filter(|kind| only.is_none_or(|only| only == *kind));
    let lists: Vec<_> = kinds
        .flat_map(|kind| ListOrigin::ALL.map(|origin| (kind, origin, backend.list(kind, origin))))
        .collect();
    let (sender, receiver) = mpsc::channel(4);
    tokio::task::spawn_local(async move {
        let mut part = b"[".to_vec();
        for (kind, origin, listing) in lists {
            let views: Box<dyn Iterator<Item = ListEntryView>> = match &listing {
                Listing::Everywhere(networks) => Box::new(networks.iter().map(|network| {
                    ListEntryView { list: kind, prefix: *network, origin, interface: None }
                })),
                Listing::Trusted(trusted) => {
                    Box::new(trusted.iter().map(|Trusted { network, interface }| ListEntryView {
                        list: kind,
                        prefix: *network,
                        origin,
                        interface: interface.clone(),
                    }))
                }
            };
            let mut views = views.peekable();
            while views.peek().is_some() {
                for view in views.by_ref().take(ENTRIES_AT_ONCE) {
                    if !part.ends_with(b"[") {
                        part.push(b',');
                    }
                    if serde_json::to_writer(&mut part, &view).is_err() {
                        return;
                    }
                }
                let last = part.pop();
                // Its end tells the next part that it is not the first.
                if sender.send(std::mem::take(&mut part).into()).await.is_err() {
                    return;
                }
                part.extend(last);
                tokio::task::yield_now().await;
            }
        }
        part.push(b']');
        drop(sender.send(part.into()).await);
    });
    receiver
}
