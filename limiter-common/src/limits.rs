//! The limits of one source, one service or the whole host, and the buckets they are kept in.
//!
//! A packet meets up to four such groups. All are tested first and all are charged then, so that a
//! packet that one of them refuses costs nothing in the others.

use core::sync::atomic::AtomicU64;

use crate::{
    bucket::{self, BucketRate},
    headers::{Headers, protocol},
    machine::Machine,
    verdict::Reason,
};

/// What a packet is, beside a packet of so many bytes: which further bucket it is charged to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Kind {
    /// None.
    Other = 0,
    /// Opens a TCP connection.
    Connection = 1,
    /// UDP.
    Udp = 2,
    /// ICMP of either family.
    Icmp = 3,
}

/// How many kinds there are.
pub const KINDS: usize = 4;

/// Limits as the packet path uses them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Limits {
    /// Packets of any kind.
    pub packets: BucketRate,
    /// Bytes of whole frames.
    pub bytes: BucketRate,
    /// Packets by [`Kind`]; the first is never limited.
    pub kinds: [BucketRate; KINDS],
    /// Open TCP connections; 0: no limit.
    pub concurrent_connections: u64,
    /// Bits of [`limit_flags`].
    pub flags: u64,
}

/// Bits of [`Limits::flags`].
pub mod limit_flags {
    /// Decide and count, drop nothing.
    pub const MONITOR: u64 = 1 << 0;
}

/// Words of [`Limits`].
pub const LIMIT_WORDS: usize = 14;

const _: () = assert!(LIMIT_WORDS * 8 == size_of::<Limits>());

impl Limits {
    /// No limit.
    pub const NONE: Self = Self {
        packets: BucketRate::UNLIMITED,
        bytes: BucketRate::UNLIMITED,
        kinds: [BucketRate::UNLIMITED; KINDS],
        concurrent_connections: 0,
        flags: 0,
    };

    /// The rates, in order.
    pub const fn rates(&self) -> [BucketRate; 2 + KINDS] {
        let [other, connections, udp, icmp] = self.kinds;
        [self.packets, self.bytes, other, connections, udp, icmp]
    }

    /// Whether anything is limited.
    pub fn is_none(&self) -> bool {
        self.concurrent_connections == 0 && self.rates().iter().all(|rate| rate.is_unlimited())
    }

    /// The words as user space writes them to a map: every field in order.
    pub fn to_words(&self) -> [u64; LIMIT_WORDS] {
        let mut words = [0; LIMIT_WORDS];
        for (pair, rate) in words.chunks_exact_mut(2).zip(self.rates()) {
            pair.copy_from_slice(&[rate.cost, rate.burst_ticks]);
        }
        let [.., concurrent, flags] = &mut words;
        *concurrent = self.concurrent_connections;
        *flags = self.flags;
        words
    }
}

/// Buckets, one word each (see [`crate::bucket`]).
#[derive(Debug, Default)]
#[repr(C)]
pub struct Buckets {
    /// Packets of any kind.
    pub packets: AtomicU64,
    /// Bytes.
    pub bytes: AtomicU64,
    /// Packets by [`Kind`]; the first is never charged.
    pub kinds: [AtomicU64; KINDS],
}

/// Words of [`Buckets`].
pub const BUCKET_WORDS: usize = 2 + KINDS;

impl Buckets {
    /// From the words that user space read from a map.
    pub const fn from_words(words: [u64; BUCKET_WORDS]) -> Self {
        let [packets, bytes, kind0, kind1, kind2, kind3] = words;
        Self {
            packets: AtomicU64::new(packets),
            bytes: AtomicU64::new(bytes),
            kinds: [
                AtomicU64::new(kind0),
                AtomicU64::new(kind1),
                AtomicU64::new(kind2),
                AtomicU64::new(kind3),
            ],
        }
    }

    /// Every word, in order.
    pub fn words(&self) -> [&AtomicU64; BUCKET_WORDS] {
        let [other, connections, udp, icmp] = &self.kinds;
        [&self.packets, &self.bytes, other, connections, udp, icmp]
    }
}

/// What of a packet is charged, and when.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    kind: usize,
    bytes: u64,
    /// Ticks.
    now: u64,
}

impl Load {
    /// A packet of so many bytes at this time.
    #[inline]
    pub fn new<M: Machine>(headers: &Headers, bytes: u64, now_ns: u64) -> Self {
        let kind = match headers.protocol {
            protocol::TCP if headers.is_tcp_open() => Kind::Connection,
            protocol::UDP => Kind::Udp,
            protocol::ICMP | protocol::ICMPV6 => Kind::Icmp,
            _ => Kind::Other,
        };
        let kind = M::forget(kind as u64, bytes);
        Self { kind: index(kind), bytes, now: bucket::ticks(now_ns) }
    }

    /// The time, in ticks.
    #[inline]
    pub const fn now(&self) -> u64 {
        self.now
    }

    /// What these limits have against the packet: bits of [`Excess`]. `pending` is charged to the
    /// buckets, but not yet in them.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call costs what it saves")]
    pub fn excess<M: Machine>(
        &self,
        limits: &Limits,
        buckets: &Buckets,
        pending: Option<&Buckets>,
    ) -> Excess {
        let kind = self.kind & (KINDS - 1);
        let mut arrivals =
            [M::read(&buckets.packets), M::read(&buckets.bytes), M::read(&buckets.kinds[kind])];
        if let Some(pending) = pending {
            let waiting =
                [M::read(&pending.packets), M::read(&pending.bytes), M::read(&pending.kinds[kind])];
            for (arrival, waiting) in arrivals.iter_mut().zip(waiting) {
                *arrival = bucket::later::<M>(*arrival, self.now).wrapping_add(waiting);
            }
        }
        let [packets, bytes, kinds] = arrivals;
        let over = |arrival, cost, rate: &BucketRate| {
            bucket::is_over::<M>(arrival, cost, rate.burst_ticks, self.now)
        };
        let rate = &limits.kinds[kind];
        Excess(
            over(packets, limits.packets.cost, &limits.packets)
                | (over(bytes, limits.bytes.ticks_of_bytes(self.bytes), &limits.bytes) << 1)
                | (over(kinds, rate.cost, rate) << 2),
        )
    }

    /// Charges buckets that this CPU alone charges; when the last of them is full again.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call costs what it saves")]
    pub fn charge<M: Machine>(&self, limits: &Limits, buckets: &Buckets) -> u64 {
        self.each::<M>(limits, buckets, bucket::charge::<M>)
    }

    /// Charges buckets that others charge at the same time; when the last of them is full again.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call costs what it saves")]
    pub fn charge_shared<M: Machine>(&self, limits: &Limits, buckets: &Buckets) -> u64 {
        self.each::<M>(limits, buckets, bucket::charge_shared::<M>)
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call costs what it saves")]
    fn each<M: Machine>(
        &self,
        limits: &Limits,
        buckets: &Buckets,
        charge: impl Fn(&AtomicU64, u64, u64) -> u64,
    ) -> u64 {
        let kind = self.kind & (KINDS - 1);
        let rate = &limits.kinds[kind];
        let mut last = self.now;
        for (word, cost) in [
            (&buckets.packets, limits.packets.cost),
            (&buckets.bytes, limits.bytes.ticks_of_bytes(self.bytes)),
            (&buckets.kinds[kind], rate.cost),
        ] {
            if cost != 0 {
                last = bucket::later::<M>(last, charge(word, cost, self.now));
            }
        }
        last
    }

    /// Charges buckets that every CPU charges, of which each keeps its own share in `pending`
    /// until that is a 2 048th of the burst: one shared write for many packets. Over-admission is
    /// one packet or a 2 048th of the burst per CPU, whichever is more; what is pending is charged
    /// with the CPU's next packet.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call costs what it saves")]
    pub fn charge_pending<M: Machine>(
        &self,
        limits: &Limits,
        buckets: &Buckets,
        pending: &Buckets,
    ) {
        let kind = self.kind & (KINDS - 1);
        let rate = &limits.kinds[kind];
        for (word, share, cost, burst_ticks) in [
            (&buckets.packets, &pending.packets, limits.packets.cost, limits.packets.burst_ticks),
            (
                &buckets.bytes,
                &pending.bytes,
                limits.bytes.ticks_of_bytes(self.bytes),
                limits.bytes.burst_ticks,
            ),
            (&buckets.kinds[kind], &pending.kinds[kind], rate.cost, rate.burst_ticks),
        ] {
            if cost != 0 {
                let waiting = M::read(share).wrapping_add(cost);
                if waiting >= burst_ticks / 2_048 {
                    M::write(share, 0);
                    bucket::charge_shared::<M>(word, waiting, self.now);
                } else {
                    M::write(share, waiting);
                }
            }
        }
    }

    /// Why a packet with this excess is refused, where the limits are a source's.
    #[inline]
    pub fn reason(&self, excess: Excess) -> Reason {
        if excess.0 & 1 != 0 {
            Reason::PacketRate
        } else if excess.0 & 2 != 0 {
            Reason::ByteRate
        } else if self.kind == Kind::Connection as usize {
            Reason::ConnectionRate
        } else if self.kind == Kind::Udp as usize {
            Reason::UdpRate
        } else {
            Reason::IcmpRate
        }
    }
}

/// Which limits a packet exceeds: bit 0 packets, 1 bytes, 2 its kind.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Excess(u64);

impl Excess {
    /// Whether there is any.
    #[inline]
    pub const fn is_any(self) -> bool {
        self.0 != 0
    }
}

/// The low bits: the mask tells the verifier that it is in bounds.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "two bits")]
const fn index(kind: u64) -> usize {
    kind as usize & (KINDS - 1)
}
