//! Connections that peers opened, counted by the stack's own transitions: nothing that arrives in
//! a packet alone changes a count.
//!
//! A socket is known by its cookie, which is never used again while the host is up.

use core::sync::atomic::AtomicU64;

use aya_ebpf::{
    Global,
    bindings::{BPF_NOEXIST, xdp_action},
    helpers::{bpf_get_prandom_u32, bpf_get_socket_cookie, bpf_probe_read_kernel},
    programs::{BtfTracePointContext, XdpContext},
};
use limiter_common::{
    address::Address,
    connection::{self, CORRECTION_WORDS, Connection, Correction, Counts, Insertion, losses},
    machine::Machine,
    maps::control,
    ports::{PORT_WORDS, PortFacts, port_word},
};

use crate::{
    machine::Kernel,
    maps::{CONNECTIONS, CONTROL, OPEN_LOSSES, OPEN_TOTALS, PORTS, SETTINGS, SOCKETS},
};

/// States of `enum` in `net/tcp_states.h`.
const ESTABLISHED: i32 = 1;
const SYN_RECV: i32 = 3;
const CLOSE: i32 = 7;

/// `AF_INET6`.
const INET6: u16 = 10;

/// Protocols whose sockets are counted: TCP and MPTCP.
const TCP: u16 = 6;
const MPTCP: u16 = 262;

/// `EEXIST`.
const EXISTS: i32 = -17;

/// Cookie of the network namespace whose connections count: user space says which.
#[unsafe(no_mangle)]
static NETNS_COOKIE: Global<u64> = Global::new(0);

/// Where the fields of `struct sock` and `struct net` lie: aya has no CO-RE, so that user space
/// reads the kernel's BTF and says.
#[unsafe(no_mangle)]
static SOCK_NET: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static SOCK_PROTOCOL: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static SOCK_FAMILY: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static SOCK_LOCAL_PORT: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static SOCK_REMOTE_V4: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static SOCK_REMOTE_V6: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static NET_COOKIE: Global<u32> = Global::new(0);

/// One transition of a socket: `struct sock *`, old state, new state.
#[inline]
pub(crate) fn transition(ctx: &BtfTracePointContext) {
    let (old, new): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    let opens = old == SYN_RECV && new == ESTABLISHED;
    if !opens && new != CLOSE {
        return;
    }
    let socket: *const u8 = ctx.arg(0);
    // SAFETY: the kernel passes a live `struct sock`, whose lock the caller holds (5.12).
    let cookie = unsafe { bpf_get_socket_cookie(socket.cast_mut().cast()) };
    if new == CLOSE {
        close(cookie);
    } else if SOCKETS.get_ptr(cookie).is_none()
        && let Some(connection) = describe(socket)
    {
        open(cookie, connection);
    }
}

/// The connection of a TCP socket of our namespace.
#[inline]
fn describe(socket: *const u8) -> Option<Connection> {
    let protocol: u16 = read(socket, &SOCK_PROTOCOL)?;
    if protocol != TCP && protocol != MPTCP {
        return None;
    }
    let net: *const u8 = read(socket, &SOCK_NET)?;
    if read::<u64>(net, &NET_COOKIE)? != NETNS_COOKIE.load() {
        return None;
    }
    let remote = if read::<u16>(socket, &SOCK_FAMILY)? == INET6 {
        // Peers of a dual-stack listener are v4-mapped here, which is what `Address` calls IPv4.
        let [high, low]: [[u8; 8]; 2] = read(socket, &SOCK_REMOTE_V6)?;
        Address::from_v6(high, low)
    } else {
        Address::from_v4(read(socket, &SOCK_REMOTE_V4)?)
    };
    let active = u32::from(CONTROL.get(0)?[control::ACTIVE] != 0);
    let settings = SETTINGS.get(active)?;
    let source = remote.source_key(settings.masks);
    let service = service_of(active, read(socket, &SOCK_LOCAL_PORT)?);
    Some(Connection::new(source, service, settings.hash_seed))
}

/// The service that a local TCP port belongs to; 0: none.
#[inline]
fn service_of(active: u32, port: u16) -> u32 {
    let word = PORTS.get(active * PORT_WORDS + port_word(false, port)).copied().unwrap_or(0);
    PortFacts::in_word(word, port).service()
}

/// Records and counts a connection, unless it is recorded; what finds no room is counted as that.
#[inline]
fn open(cookie: u64, connection: Connection) -> bool {
    match SOCKETS.insert(cookie, connection, u64::from(BPF_NOEXIST)) {
        Ok(()) => {}
        Err(EXISTS) => return false,
        Err(_) => return lose(losses::FULL),
    }
    if !connection::add(&KernelCounts, connection.source, 1) {
        SOCKETS.remove(cookie).ok();
        return lose(losses::FULL);
    }
    if connection.pair != 0 && !connection::add(&KernelCounts, connection.pair, 1) {
        subtract(connection.source);
        SOCKETS.remove(cookie).ok();
        return lose(losses::FULL);
    }
    total(0, 1);
    if connection.service != 0 {
        total(connection.service, 1);
    }
    true
}

/// Removes a connection and counts it out, if it is recorded.
#[inline]
fn close(cookie: u64) -> bool {
    let Some(found) = SOCKETS.get_ptr(cookie) else { return false };
    // SAFETY: the verifier checked the pointer. Cookies are not used again: nobody else writes
    // this record, and whoever removed it is told apart below.
    let connection = unsafe { *found };
    if SOCKETS.remove(cookie).is_err() {
        return lose(losses::CONTENDED);
    }
    subtract(connection.source);
    if connection.pair != 0 {
        subtract(connection.pair);
    }
    total(0, u64::MAX);
    if connection.service != 0 {
        total(connection.service, u64::MAX);
    }
    true
}

/// Carries out the correction that the frame holds; what it came to is the returned action: passed
/// if done.
#[inline]
pub(crate) fn correct(ctx: &XdpContext) -> u32 {
    let data = ctx.data();
    if data + CORRECTION_WORDS * 8 > ctx.data_end() {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: so many bytes from `data` are inside the packet, as compared above.
    let words = unsafe { (data as *const [u64; CORRECTION_WORDS]).read_unaligned() };
    let done = match Correction::from_words(words) {
        Some(Correction::Open(cookie, connection)) => open(cookie, connection),
        Some(Correction::Close(cookie)) => close(cookie),
        Some(Correction::Add(key, amount)) => connection::add(&KernelCounts, key, amount),
        Some(Correction::Subtract(key, amount)) => connection::subtract(&KernelCounts, key, amount),
        Some(Correction::Total(service, amount)) => total(service, amount),
        None => false,
    };
    if done { xdp_action::XDP_PASS } else { xdp_action::XDP_DROP }
}

#[inline]
fn subtract(key: u64) {
    if !connection::subtract(&KernelCounts, key, 1) {
        lose(losses::CONTENDED);
    }
}

#[inline]
fn total(service: u64, amount: u64) -> bool {
    let Some(word) = OPEN_TOTALS.get(service as u32) else { return false };
    Kernel::add(word, connection::total_step(amount));
    true
}

#[inline]
fn lose(index: u32) -> bool {
    if let Some(word) = OPEN_LOSSES.get(index) {
        Kernel::add(word, 1);
    }
    false
}

/// A field of a kernel structure; `None` where the memory is gone.
#[inline]
fn read<T: Copy>(structure: *const u8, offset: &Global<u32>) -> Option<T> {
    let from = structure.wrapping_add(offset.load() as usize);
    // SAFETY: the helper bears any address; every field that is read is plain numbers.
    unsafe { bpf_probe_read_kernel(from.cast()) }.ok()
}

/// The counts of sources.
struct KernelCounts;

impl Counts for KernelCounts {
    type Machine = Kernel;

    #[inline]
    fn word(&self, key: u64) -> Option<&AtomicU64> {
        // SAFETY: the word is only accessed atomically; on reuse see `limiter_common::connection`.
        unsafe { CONNECTIONS.get(key) }
    }

    #[inline]
    fn random(&self) -> u32 {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline]
    fn insert(&self, key: u64, word: u64) -> Insertion {
        match CONNECTIONS.insert(key, AtomicU64::new(word), u64::from(BPF_NOEXIST)) {
            Ok(()) => Insertion::Done,
            Err(EXISTS) => Insertion::Exists,
            Err(_) => Insertion::Full,
        }
    }

    #[inline]
    fn remove(&self, key: u64) {
        CONNECTIONS.remove(key).ok();
    }
}
