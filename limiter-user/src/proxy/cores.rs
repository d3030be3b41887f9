//! The cores as the main thread holds them: started, told, counted, waited for.

use std::{io, sync::Arc, thread::JoinHandle};

use tokio::sync::mpsc;

use super::{
    access_log::Writer,
    core::{self, CoreSetup, ToCore},
    overload::Watchman,
    report::{Batch, CoreCounters},
};
use crate::link::ProxyCounters;

/// Messages that may wait for a core.
const CORE_QUEUE: usize = 256;

/// All of them.
#[derive(Debug)]
pub(super) struct Cores(Vec<CoreHandle>);

#[derive(Debug)]
struct CoreHandle {
    messages: mpsc::Sender<ToCore>,
    counters: Arc<CoreCounters>,
    thread: JoinHandle<()>,
}

impl Cores {
    /// Starts `count`, one at least, each in a thread of its own.
    pub(super) fn start(
        count: usize,
        batches: &mpsc::Sender<Batch>,
        watchman: &Watchman,
        access_log: &Writer,
    ) -> io::Result<Self> {
        let all: Arc<[Arc<CoreCounters>]> = (0..count.max(1)).map(|_| Arc::default()).collect();
        let start = |(number, counters): (usize, &Arc<CoreCounters>)| {
            let (messages, received) = mpsc::channel(CORE_QUEUE);
            let counters = Arc::clone(counters);
            let mut seed = [0; 8];
            aws_lc_rs::rand::fill(&mut seed).map_err(io::Error::other)?;
            let setup = CoreSetup {
                messages: received,
                batches: batches.clone(),
                counters: Arc::clone(&counters),
                all_counters: Arc::clone(&all),
                clients: Arc::clone(&watchman.clients),
                overload: Arc::clone(&watchman.overload),
                access_log: access_log.clone(),
                seed: u64::from_le_bytes(seed),
                number,
            };
            let thread =
                std::thread::Builder::new().name(format!("core-{number}")).spawn(move || {
                    if let Err(error) = core::run(setup) {
                        log::error!("core {number}: {error}");
                    }
                })?;
            Ok(CoreHandle { messages, counters, thread })
        };
        all.iter().enumerate().map(start).collect::<io::Result<_>>().map(Self)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// Tells every core.
    pub(super) async fn tell(&self, message: &ToCore) {
        for core in &self.0 {
            if core.messages.send(message.clone()).await.is_err() {
                log::error!("a core has ended");
            }
        }
    }

    /// What each has counted.
    pub(super) fn counters(&self) -> impl Iterator<Item = &CoreCounters> {
        self.0.iter().map(|core| &*core.counters)
    }

    /// What all have counted.
    pub(super) fn totals(&self) -> ProxyCounters {
        let mut totals = ProxyCounters::default();
        self.counters().for_each(|counters| counters.add_to(&mut totals));
        totals
    }

    /// Whether any still works.
    pub(super) fn is_running(&self) -> bool {
        self.0.iter().any(|core| !core.thread.is_finished())
    }

    /// Waits for those that have ended.
    pub(super) fn join(self) {
        for core in self.0 {
            if core.thread.join().is_err() {
                log::error!("a core failed");
            }
        }
    }
}
