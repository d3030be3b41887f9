//! What waits to be sent to the agent: a bounded queue and the task that writes it.
//!
//! A slow agent fills the queue and never holds the conductor up.

use std::{
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinHandle};

use crate::link::{FromProxy, codec::LinkSender};

const QUEUE: usize = 1024;

/// How long the last messages may take at the end.
const FINISH: Duration = Duration::from_millis(500);

/// The sending half of the link.
#[derive(Debug)]
pub(super) struct Outbox {
    queue: mpsc::Sender<(FromProxy, Vec<OwnedFd>)>,
    writer: JoinHandle<()>,
}

impl Outbox {
    /// Starts the writer on the conductor's thread.
    pub(super) fn start(mut link: LinkSender) -> Self {
        let (queue, mut messages) = mpsc::channel::<(FromProxy, Vec<OwnedFd>)>(QUEUE);
        let writer = tokio::task::spawn_local(async move {
            while let Some((message, descriptors)) = messages.recv().await {
                let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
                if let Err(error) = link.send(&message, &descriptors).await {
                    // The receiving half sees the end of the link too, and acts on it.
                    log::debug!("cannot send to the agent: {error}");
                    return;
                }
            }
        });
        Self { queue, writer }
    }

    /// Queues a message; `false` if there is no room.
    pub(super) fn send(&self, message: FromProxy, descriptors: Vec<OwnedFd>) -> bool {
        self.queue.try_send((message, descriptors)).is_ok()
    }

    /// Sends what is queued, for a moment.
    pub(super) async fn finish(self) {
        let Self { queue, writer } = self;
        drop(queue);
        drop(tokio::time::timeout(FINISH, writer).await);
    }
}
