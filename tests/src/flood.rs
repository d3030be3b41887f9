//! A bounded flood of connection requests from addresses that are nobody's.
//!
//! Sources are from ranges of the test's own namespaces (see [`route`]); the number of frames and
//! the time that they may take are given, and both end it.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{
    frames::{Frame, Tcp, tcp_flags},
    random::Random,
    raw::Port,
    wait::Deadline,
    world::{CLIENTS, CLIENTS_V6, World},
};

/// Frames that are sent by one system call.
const BATCH: usize = 16;

/// What a client of today asks for: segment size, selective acknowledgement, timestamps, scale.
pub const OPTIONS: [u8; 20] = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];

/// Makes the protected host send its answers to the flood's sources to the clients' end, where
/// nobody has them.
pub fn route(world: &World) {
    world.server.batch(&format!(
        "route add 10.64.0.0/10 via {} dev server0\nroute add fd00:f::/32 via {} dev server0\n",
        CLIENTS[0], CLIENTS_V6[0]
    ));
}

/// SYNs to one port, each of another source.
pub fn syns(world: &World, target: SocketAddr, count: usize, seed: u64) -> Vec<Vec<u8>> {
    let mut random = Random::new(seed);
    let syn = || {
        let source = if target.is_ipv4() {
            Ipv4Addr::from_bits(0x0a40_0000 | (random.next_u32() & 0x003f_ffff)).into()
        } else {
            let low = random.next_u64();
            Ipv6Addr::from_bits(0xfd00_000f << 96 | u128::from(low) << 32 | 1).into()
        };
        let port = 1_024 | random.next_u16();
        let source = SocketAddr::new(source, port);
        let sequence = random.next_u32();
        let frame = Frame::tcp(&source.to_string(), &target.to_string(), tcp_flags::SYN);
        world.frame(frame.map::<Tcp>(|tcp| {
            tcp.sequence = sequence;
            tcp.options = OPTIONS.to_vec();
        }))
    };
    std::iter::repeat_with(syn).take(count).collect()
}

/// A flood that runs until it is dropped, its time is over, or all is sent.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    sender: Option<JoinHandle<()>>,
}

impl Flood {
    /// Sends these frames over and over, at most `per_second`, for at most `time`.
    pub fn start(world: &World, frames: Vec<Vec<u8>>, per_second: u32, time: Duration) -> Self {
        let port = Port::open(&world.veth.client);
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let sender = world.client.spawn(move || {
            let deadline = Deadline::after(time);
            for batch in frames.chunks(BATCH).cycle() {
                let before = count.load(Ordering::Relaxed);
                let due = Duration::from_nanos(before * 1_000_000_000 / u64::from(per_second));
                thread::sleep(due.saturating_sub(deadline.elapsed()));
                if stopped.load(Ordering::Relaxed) || deadline.is_over() {
                    return;
                }
                port.send_batch(batch);
                count.fetch_add(batch.len().try_into().expect("few"), Ordering::Relaxed);
            }
        });
        Self { stop, sent, sender: Some(sender) }
    }

    /// Frames sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(sender) = self.sender.take() {
            drop(sender.join());
        }
    }
}
