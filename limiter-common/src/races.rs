//! Two CPUs and one word: every access to a shared word is a point at which the other may go on, in
//! schedules drawn at random: evenly, and with few but long interruptions (probabilistic concurrency
//! testing; Burckhardt and others, 2010).

extern crate std;

use core::sync::atomic::AtomicU64;
use std::{cell::RefCell, collections::HashMap, sync::Arc, thread_local, vec::Vec};

use shuttle::thread;

use crate::{
    bucket::{BucketRate, charge_shared, is_over},
    headers::{Headers, protocol},
    limits::{Limits, Load},
    lists::ListValue,
    machine::{Machine, Native},
    source::{CachedAccess, Home, KeySet, SlotSet, SourceSlot, claim_in, find_in},
};

const SCHEDULES: usize = 2_000;
const INTERRUPTIONS: usize = 3;
const NOW_NS: u64 = 1_000_000_000;

/// The host, where others come in between.
struct Interleaved;

#[derive(Default)]
struct Trace {
    /// What each thread last read from each word.
    read: HashMap<(thread::ThreadId, usize), u64>,
    /// Writes that undid what another had written since.
    undone: HashMap<usize, u32>,
    /// Writes that changed a word.
    changes: HashMap<usize, u32>,
}

thread_local! {
    /// Of one schedule; its threads are one to the system.
    static TRACE: RefCell<Trace> = RefCell::default();
}

fn place(word: &AtomicU64) -> usize {
    core::ptr::from_ref(word).addr()
}

fn count(word: &AtomicU64, of: impl Fn(&Trace) -> &HashMap<usize, u32>) -> u32 {
    TRACE.with_borrow(|trace| of(trace).get(&place(word)).copied().unwrap_or(0))
}

/// A point at which another CPU may go on: any access to a word that shuttle knows.
fn switch() {
    shuttle::sync::atomic::AtomicBool::new(false).load(core::sync::atomic::Ordering::SeqCst);
}

impl Machine for Interleaved {
    fn read(word: &AtomicU64) -> u64 {
        switch();
        let value = Native::read(word);
        let key = (thread::current().id(), place(word));
        TRACE.with_borrow_mut(|trace| trace.read.insert(key, value));
        value
    }

    fn write(word: &AtomicU64, value: u64) {
        switch();
        let (now, here) = (Native::read(word), place(word));
        let key = (thread::current().id(), here);
        TRACE.with_borrow_mut(|trace| {
            if trace.read.get(&key).is_some_and(|read| *read != now) {
                *trace.undone.entry(here).or_default() += 1;
            }
            *trace.changes.entry(here).or_default() += u32::from(value != now);
            trace.read.insert(key, value);
        });
        Native::write(word, value);
    }

    fn add(word: &AtomicU64, amount: u64) {
        switch();
        Native::add(word, amount);
    }

    fn replace(word: &AtomicU64, current: u64, new: u64) -> bool {
        switch();
        Native::replace(word, current, new)
    }

    fn opaque(value: u64) -> u64 {
        value
    }
}

/// Runs `cpu` on so many CPUs at once, then `check`, in many schedules.
fn explore<S, R>(
    cpus: u32,
    start: impl Fn() -> S + Send + Sync + 'static,
    cpu: impl Fn(&S, u32) -> R + Send + Sync + Copy + 'static,
    check: impl Fn(&S, Vec<R>) + Send + Sync + 'static,
) where
    S: Send + Sync + 'static,
    R: Send + 'static,
{
    let schedule = Arc::new(move || {
        TRACE.with_borrow_mut(|trace| *trace = Trace::default());
        let shared = Arc::new(start());
        let run = |number| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || cpu(&shared, number))
        };
        let running: Vec<_> = (0..cpus).map(run).collect();
        let results = running.into_iter().map(|thread| thread.join().unwrap()).collect();
        check(&shared, results);
    });
    let again = Arc::clone(&schedule);
    shuttle::check_random(move || schedule(), SCHEDULES);
    shuttle::check_pct(move || again(), SCHEDULES, INTERRUPTIONS);
}

fn per_hour(burst: u64) -> BucketRate {
    BucketRate::new(burst, 3_600_000_000_000, burst).unwrap()
}

fn load() -> Load {
    let headers = Headers { protocol: protocol::UDP, has_ports: true, ..Headers::default() };
    Load::new::<Native>(&headers, 60, NOW_NS)
}

/// Over-admission is at most one packet per CPU, and whatever is admitted is charged, also where
/// two CPUs start the debt of a full bucket.
#[test]
fn a_shared_bucket_loses_no_charge_and_admits_one_packet_too_many_per_cpu() {
    const CPUS: u32 = 3;
    let (rate, now) = (per_hour(2), crate::bucket::ticks(NOW_NS));
    explore(
        CPUS,
        || AtomicU64::new(0),
        move |word, _| {
            let mut admitted = 0_u64;
            for _ in 0..3 {
                let arrival = Interleaved::read(word);
                if is_over::<Interleaved>(arrival, rate.cost, rate.burst_ticks, now) == 0 {
                    charge_shared::<Interleaved>(word, rate.cost, now);
                    admitted += 1;
                }
            }
            admitted
        },
        move |word, admitted: Vec<u64>| {
            let admitted: u64 = admitted.iter().sum();
            assert!((2..2 + u64::from(CPUS)).contains(&admitted), "{admitted} admitted");
            assert_eq!(Native::read(word), now + admitted * rate.cost, "all of it is charged");
        },
    );
}

/// As `decide` charges a slot.
fn charge(slot: &SourceSlot, limits: &Limits, cpu: u32, load: &Load) {
    let full = if slot.is_owned_by::<Interleaved>(cpu, load.now()) {
        load.charge::<Interleaved>(limits, &slot.buckets)
    } else {
        load.charge_shared::<Interleaved>(limits, &slot.buckets)
    };
    slot.keep::<Interleaved>(full, load.now());
}

/// A charge without an atomic addition may undo what another CPU charged in between: once for each
/// change of hands, and not once they know of each other.
#[test]
fn a_change_of_hands_undoes_at_most_one_packet_s_charges() {
    let limits = Limits { packets: per_hour(1_000), ..Limits::NONE };
    explore(
        2,
        move || {
            // CPU 0 has it, and the source owes.
            let slot = SourceSlot::default();
            charge_alone(&slot, &limits, 0);
            charge_alone(&slot, &limits, 0);
            slot
        },
        move |slot, cpu| (0..3).for_each(|_| charge(slot, &limits, cpu, &load())),
        move |slot, _| {
            let undone = count(&slot.buckets.packets, |trace| &trace.undone);
            let hands = count(&slot.owner, |trace| &trace.changes);
            assert!(hands <= 1, "the slot changed hands {hands} times, in debt");
            assert!(undone <= hands, "{undone} charges undid others, {hands} changes of hands");
            let before = Native::read(&slot.buckets.packets);
            charge(slot, &limits, 0, &load());
            charge(slot, &limits, 1, &load());
            let after = Native::read(&slot.buckets.packets);
            assert_eq!(after - before, 2 * limits.packets.cost, "nobody owns it any more");
        },
    );
}

fn charge_alone(slot: &SourceSlot, limits: &Limits, cpu: u32) {
    slot.is_owned_by::<Native>(cpu, load().now());
    let full = load().charge::<Native>(limits, &slot.buckets);
    slot.keep::<Native>(full, load().now());
}

/// A set of seven sources, of which some are idle.
struct Set {
    keys: KeySet,
    slots: SlotSet,
}

fn home(key: u64) -> Home {
    Home { sets: [0, 0], ..Home::of(key, 0x5eed, 0) }
}

impl Set {
    fn with_idle(idle: usize) -> Self {
        let set = Self { keys: KeySet::default(), slots: SlotSet::default() };
        for key in 1..=7 {
            let slot = set.claim::<Native>(key).unwrap();
            let until = if key <= idle as u64 { 0 } else { u64::MAX >> 2 };
            Native::write(&slot.busy_until, until.max(1));
        }
        // Those that were claimed last are idle too now.
        set
    }

    fn claim<M: Machine>(&self, key: u64) -> Option<&SourceSlot> {
        let now = load().now();
        let place =
            claim_in::<M>(|_| Some(&self.keys), |_| Some(&self.slots), home(key), key, now)?;
        self.slots.slot(place.way)
    }

    fn finds(&self, key: u64) -> bool {
        find_in::<Native>(|_| Some(&self.keys), home(key), key).is_some()
    }
}

/// Whoever claims, every key that lies in the set is found by its tag, and those in debt stay.
#[test]
fn claims_at_the_same_time_leave_every_key_where_it_is_found() {
    for idle in 1..=2 {
        explore(
            3,
            move || Set::with_idle(idle),
            |set, cpu| {
                for number in 0..2 {
                    set.claim::<Interleaved>(100 + u64::from(cpu * 10 + number));
                }
            },
            move |set, _| {
                assert!((idle as u64 + 1..=7).all(|key| set.finds(key)), "in debt and found");
                let words = set.keys.to_words();
                assert!(words[1..].iter().all(|key| set.finds(*key)), "{words:x?}");
                assert_eq!(words[0] >> 56, 0, "{words:x?}: no tag runs into the next");
            },
        );
    }
}

/// Two packets of one new source: it has one slot or two, and is found.
#[test]
fn a_source_that_two_cpus_claim_for_is_found() {
    explore(
        2,
        || Set::with_idle(2),
        |set, _| set.claim::<Interleaved>(100).is_some(),
        |set, claimed: Vec<bool>| {
            assert!(claimed.contains(&true) && set.finds(100));
            let same = set.keys.to_words()[1..].iter().filter(|key| **key == 100).count();
            assert!((1..=2).contains(&same), "{same} slots");
        },
    );
}

/// A CPU that still holds a slot writes what the lists say of its source, while another claims the
/// slot for another source and asks what is known of that.
#[test]
fn what_the_lists_said_of_one_source_is_believed_for_no_other() {
    let (old, new) = (1_u64, 4_242_u64);
    explore(
        2,
        || Set::with_idle(1),
        move |set, cpu| {
            if cpu == 0 {
                let place = find_in::<Interleaved>(|_| Some(&set.keys), home(old), old);
                if let Some(slot) = place.and_then(|place| set.slots.slot(place.way)) {
                    let said = CachedAccess::new(ListValue::TRUSTED, old, 7);
                    Interleaved::write(&slot.access, said.word());
                }
                return None;
            }
            let slot = set.claim::<Interleaved>(new)?;
            CachedAccess::read(Interleaved::read(&slot.access), new, 7)
        },
        |_, believed| assert!(believed.iter().all(Option::is_none), "{believed:?}"),
    );
}
