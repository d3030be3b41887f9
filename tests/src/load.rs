//! Traffic that goes on while a test does something: HTTP clients, and a flood of frames.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{
    http::{Connection, Failure},
    netns::Namespace,
    raw::Port,
    veth::End,
    wait::eventually,
};

/// Pause between two requests of one client: load, not a contest for the processor.
const PAUSE: Duration = Duration::from_millis(2);

/// Failures that are kept; all are counted.
const MAX_SHOWN: usize = 20;

/// What came of the requests.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without an answer.
    pub failed: u64,
    /// Why, of the first few.
    pub failures: Vec<String>,
}

/// HTTP clients, each on a keep-alive connection of its own, until stopped.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    tally: Arc<Mutex<Tally>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts `clients` of them in a namespace, all from `source`.
    pub fn start(
        namespace: &Namespace,
        source: IpAddr,
        address: SocketAddr,
        request: &[u8],
        clients: usize,
    ) -> Self {
        let mut load = Self {
            stop: Arc::default(),
            answered: Arc::default(),
            tally: Arc::default(),
            threads: Vec::new(),
        };
        load.threads = (0..clients)
            .map(|_| {
                let (stop, answered) = (Arc::clone(&load.stop), Arc::clone(&load.answered));
                let (tally, request) = (Arc::clone(&load.tally), request.to_vec());
                namespace.spawn(move || {
                    let mut connection = None;
                    while !stop.load(Ordering::Acquire) {
                        match once(&mut connection, source, address, &request) {
                            Ok(status) => {
                                *lock(&tally).statuses.entry(status).or_default() += 1;
                                answered.fetch_add(1, Ordering::AcqRel);
                            }
                            Err(failure) => {
                                connection = None;
                                lock(&tally).fail(&failure);
                            }
                        }
                        thread::sleep(PAUSE);
                    }
                })
            })
            .collect();
        load
    }

    /// Waits until `more` further requests have been answered.
    #[track_caller]
    pub fn flows(&self, more: u64) {
        let wanted = self.answered.load(Ordering::Acquire) + more;
        eventually(Duration::from_secs(10), "requests are answered", || {
            self.answered.load(Ordering::Acquire) >= wanted
        });
    }

    /// Stops the clients; what came of all requests.
    pub fn stop(mut self) -> Tally {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            thread.join().expect("a client ends");
        }
        lock(&self.tally).clone()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

impl Tally {
    /// Panics unless every request was answered with this status.
    #[track_caller]
    pub fn all(&self, status: u16) {
        assert_eq!(self.failed, 0, "{self:?}");
        assert!(self.statuses.keys().all(|found| *found == status), "{self:?}");
    }

    fn fail(&mut self, failure: &Failure) {
        self.failed += 1;
        if self.failures.len() < MAX_SHOWN {
            self.failures.push(failure.to_string());
        }
    }
}

/// A connection that the server announced to close, or closed while it was idle, is replaced, as
/// every HTTP client does.
fn once(
    kept: &mut Option<Connection>,
    source: IpAddr,
    address: SocketAddr,
    request: &[u8],
) -> Result<u16, Failure> {
    if kept.as_mut().is_some_and(Connection::is_closed) {
        *kept = None;
    }
    let connection = match kept {
        Some(connection) => connection,
        None => kept.insert(Connection::open_from(Some(source), address, Duration::from_secs(5))?),
    };
    let response = connection.exchange(request)?;
    if response.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
        *kept = None;
    }
    Ok(response.status)
}

fn lock(tally: &Mutex<Tally>) -> std::sync::MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Frames sent in turn, evenly, until stopped.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// Starts sending on an interface.
    pub fn start(end: &End, frames: Vec<Vec<u8>>, per_second: u32) -> Self {
        let (stop, sent) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let port = Port::open(end);
        let (stopping, counted) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = thread::spawn(move || {
            let burst = (per_second / 200).max(1);
            let mut turn = frames.iter().cycle();
            while !stopping.load(Ordering::Acquire) {
                for _ in 0..burst {
                    let Some(frame) = turn.next() else { return };
                    port.send(frame);
                    counted.fetch_add(1, Ordering::AcqRel);
                }
                thread::sleep(Duration::from_millis(5));
            }
        });
        Self { stop, sent, thread: Some(thread) }
    }

    /// Frames sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Acquire)
    }

    /// Waits until `more` further frames have been sent.
    #[track_caller]
    pub fn flows(&self, more: u64) {
        let wanted = self.sent() + more;
        eventually(Duration::from_secs(10), "frames are sent", || self.sent() >= wanted);
    }

    /// Stops; how many were sent.
    pub fn stop(mut self) -> u64 {
        self.end();
        self.sent()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.end();
    }
}
