//! What is tested is not charged, what is charged was tested, and shares of totals stay bounded.

extern crate std;

use core::sync::atomic::Ordering::Relaxed;
use std::vec::Vec;

use super::*;
use crate::{headers::tcp_flags, machine::Native};

const SECOND_NS: u64 = 1_000_000_000;
const NOW_NS: u64 = 1_000 * SECOND_NS;

fn per_hour(burst: u64) -> BucketRate {
    BucketRate::new(burst, 3_600 * SECOND_NS, burst).unwrap()
}

fn headers(protocol: u8, tcp_flags: u8) -> Headers {
    Headers { protocol, tcp_flags, has_ports: true, ..Headers::default() }
}

fn load(headers: &Headers, bytes: u64) -> Load {
    Load::new::<Native>(headers, bytes, NOW_NS)
}

fn words(buckets: &Buckets) -> Vec<u64> {
    buckets.words().iter().map(|word| word.load(Relaxed)).collect()
}

/// Tests and, if nothing is exceeded, charges: whether it did.
fn take(load: &Load, limits: &Limits, buckets: &Buckets) -> bool {
    let is_within = !load.excess::<Native>(limits, buckets, None).is_any();
    if is_within {
        load.charge::<Native>(limits, buckets);
    }
    is_within
}

#[test]
fn each_kind_has_a_bucket_and_a_reason_of_its_own() {
    let kinds =
        [0, 2, 3, 4].map(|burst| if burst == 0 { BucketRate::UNLIMITED } else { per_hour(burst) });
    let limits = Limits { kinds, ..Limits::NONE };
    let buckets = Buckets::default();
    for (packet, admitted, reason) in [
        (headers(protocol::TCP, tcp_flags::SYN), 2, Some(Reason::ConnectionRate)),
        (headers(protocol::UDP, 0), 3, Some(Reason::UdpRate)),
        (headers(protocol::ICMP, 0), 4, Some(Reason::IcmpRate)),
        (headers(protocol::ICMPV6, 0), 0, Some(Reason::IcmpRate)),
        (headers(protocol::TCP, tcp_flags::ACK), 10, None),
        (headers(protocol::TCP, tcp_flags::SYN | tcp_flags::ACK), 10, None),
        (headers(47, 0), 10, None),
    ] {
        let load = load(&packet, 60);
        let taken = (0..10).filter(|_| take(&load, &limits, &buckets)).count();
        assert_eq!(taken, admitted, "{packet:?}");
        let excess = load.excess::<Native>(&limits, &buckets, None);
        assert_eq!(excess.is_any().then(|| load.reason(excess)), reason, "{packet:?}");
    }
}

#[test]
fn of_several_excesses_packets_are_named_before_bytes_before_kinds() {
    let packet = headers(protocol::UDP, 0);
    let mut limits = Limits { packets: per_hour(1), ..Limits::NONE };
    limits.bytes = BucketRate::of_bytes(1_000, 3_600 * SECOND_NS, 1_000).unwrap();
    limits.kinds[Kind::Udp as usize] = per_hour(1);
    let load = load(&packet, 1_000);
    for expected in [Reason::PacketRate, Reason::ByteRate, Reason::UdpRate] {
        let buckets = Buckets::default();
        assert!(take(&load, &limits, &buckets));
        let excess = load.excess::<Native>(&limits, &buckets, None);
        assert_eq!(load.reason(excess), expected);
        match expected {
            Reason::PacketRate => limits.packets = BucketRate::UNLIMITED,
            _ => limits.bytes = BucketRate::UNLIMITED,
        }
    }
}

#[test]
fn whole_frames_are_charged_as_bytes() {
    let bytes = BucketRate::of_bytes(10_000, 3_600 * SECOND_NS, 10_000).unwrap();
    let limits = Limits { bytes, ..Limits::NONE };
    let buckets = Buckets::default();
    let packet = headers(protocol::TCP, tcp_flags::ACK);
    assert!(take(&load(&packet, 9_000), &limits, &buckets));
    assert!(!take(&load(&packet, 1_001), &limits, &buckets));
    assert!(take(&load(&packet, 1_000), &limits, &buckets));
    assert!(!take(&load(&packet, 60), &limits, &buckets));
}

#[test]
fn a_test_changes_nothing_and_a_charge_only_what_is_limited() {
    let limits = Limits { packets: per_hour(5), ..Limits::NONE };
    let buckets = Buckets::default();
    let load = load(&headers(protocol::UDP, 0), 60);
    load.excess::<Native>(&limits, &buckets, None);
    assert_eq!(words(&buckets), [0; BUCKET_WORDS]);
    let full = load.charge::<Native>(&limits, &buckets);
    let now = load.now();
    assert_eq!(words(&buckets), [full, now, 0, 0, now, 0], "what is not limited owes nothing");
    assert_eq!(full, load.now() + limits.packets.cost);
    let nothing = load.charge::<Native>(&Limits::NONE, &Buckets::default());
    assert_eq!(nothing, now, "nothing is owed");
    let shared = Buckets::default();
    assert_eq!(load.charge_shared::<Native>(&limits, &shared), full);
    assert_eq!(words(&shared)[0], full);
}

#[test]
fn when_it_is_full_again_is_when_the_last_bucket_is() {
    let mut limits = Limits { packets: per_hour(5), ..Limits::NONE };
    limits.kinds[Kind::Udp as usize] = per_hour(2);
    let load = load(&headers(protocol::UDP, 0), 60);
    assert_eq!(load.charge::<Native>(&limits, &Buckets::default()), load.now() + per_hour(2).cost);
}

/// Several CPUs, each with a share of its own: over-admission is one packet or a 2 048th of the
/// burst for each of the others, whichever is more.
#[test]
fn shares_of_a_total_admit_the_burst_and_little_more() {
    for (burst, cpus) in [(1, 4), (3, 2), (100, 8), (10_000, 8), (10_000_000, 16)] {
        let limits = Limits { packets: per_hour(burst), ..Limits::NONE };
        let total = Buckets::default();
        let shares: Vec<Buckets> = (0..cpus).map(|_| Buckets::default()).collect();
        let load = load(&headers(protocol::TCP, tcp_flags::ACK), 60);
        let mut admitted = 0_u64;
        loop {
            let before = admitted;
            for share in &shares {
                if !load.excess::<Native>(&limits, &total, Some(share)).is_any() {
                    load.charge_pending::<Native>(&limits, &total, share);
                    admitted += 1;
                }
            }
            if admitted == before {
                break;
            }
        }
        let most = burst + cpus * (burst / 2_048).max(1);
        assert!((burst..=most).contains(&admitted), "{admitted} of {burst} by {cpus} CPUs");
        for share in &shares {
            assert!(words(share)[0] < limits.packets.burst_ticks / 2_048);
        }
    }
}

#[test]
fn shares_of_a_total_keep_its_rate() {
    // Two CPUs, 20 times the rate, 10 s.
    let count = 100_000;
    let limits =
        Limits { packets: BucketRate::new(count, SECOND_NS, count).unwrap(), ..Limits::NONE };
    let (total, shares) = (Buckets::default(), [Buckets::default(), Buckets::default()]);
    let packet = headers(protocol::UDP, 0);
    let mut admitted = 0_u64;
    for number in 0..20 * count {
        let load = Load::new::<Native>(&packet, 60, NOW_NS + number * 5_000);
        let share = &shares[usize::from(number % 2 == 0)];
        if !load.excess::<Native>(&limits, &total, Some(share)).is_any() {
            load.charge_pending::<Native>(&limits, &total, share);
            admitted += 1;
        }
    }
    let exact = count + 10 * count;
    assert!(admitted.abs_diff(exact) <= exact / 100, "{admitted} of {exact}");
}

#[test]
fn words_are_in_order() {
    let rate = |number: u64| BucketRate { cost: number, burst_ticks: number + 1 };
    let limits = Limits {
        packets: rate(1),
        bytes: rate(3),
        kinds: [rate(5), rate(7), rate(9), rate(11)],
        concurrent_connections: 13,
        flags: 14,
    };
    let expected: Vec<u64> = (1..=14).collect();
    assert_eq!(limits.to_words()[..], expected[..]);
    assert!(Limits::NONE.is_none() && !limits.is_none());
    assert!(!Limits { concurrent_connections: 1, ..Limits::NONE }.is_none());
}
