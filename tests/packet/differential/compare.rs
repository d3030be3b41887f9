//! What both sides know, compared.

use limiter_common::{
    decide::Decision,
    headers::Flaw,
    lists::ListVerdict,
    maps::SERVICE_COUNT,
    settings::flags,
    verdict::{Reason, Verdict},
};

use super::{Pair, edges::parsed};

impl Pair {
    pub(super) fn compare_everything(&mut self) {
        let place = format!("seed {:#x}, policy {}", self.seed, self.policy);
        for (index, (keys, slots)) in self.host.keys.iter().zip(&self.host.slots).enumerate() {
            let kernel = self.kernel.source_set(u32::try_from(index).expect("few"));
            assert_eq!(kernel.0, keys.to_words(), "{place}: keys of set {index}");
            assert_eq!(kernel.1, slots.to_words(), "{place}: slots of set {index}");
        }
        for (key, ban) in self.host.bans.borrow().iter() {
            assert_eq!(self.kernel.ban_of(*key), Some(*ban), "{place}: ban of {key:#x}");
        }
        for ((length, prefix), ban) in self.host.prefix_bans.borrow().iter() {
            let kernel = self.kernel.prefix_ban_of(*length, *prefix);
            assert_eq!(kernel, Some(*ban), "{place}: ban of {prefix:?}/{length}");
        }
        for (index, host) in self.host.flaws.iter().enumerate() {
            let kernel = self.kernel.flaw(u32::try_from(index).expect("few"));
            assert_eq!(kernel, *host, "{place}: {:?}", Flaw::ALL[index]);
        }
        self.compare_buckets(&place);
        self.compare_counters();
        for (cpu, host) in self.host.cpus.iter().enumerate() {
            let slots = self.kernel.drop_slots(cpu);
            assert_eq!(slots, host.drops, "{place}: pending drops of CPU {cpu}");
        }
        self.compare_records();
        self.compare_totals();
    }

    /// Totals, each CPU's share of them, and its claims.
    fn compare_buckets(&self, place: &str) {
        use std::sync::atomic::Ordering::Relaxed;
        for service in 0..SERVICE_COUNT {
            let host = self.host.totals[service as usize].words().map(|word| word.load(Relaxed));
            assert_eq!(self.kernel.totals(service), host, "{place}: total of {service}");
            let shares = self.kernel.pending(service);
            for (cpu, host) in self.host.cpus.iter().enumerate() {
                let host = host.pending[service as usize].words().map(|word| word.load(Relaxed));
                assert_eq!(shares[cpu], host, "{place}: share of {service}, CPU {cpu}");
            }
        }
        let claims = self.kernel.claims();
        for (cpu, host) in self.host.cpus.iter().enumerate() {
            let host = [host.claims.window.load(Relaxed), host.claims.claims.load(Relaxed)];
            assert_eq!(claims[cpu], host, "{place}: claims of CPU {cpu}");
        }
    }

    pub(super) fn compare_counters(&self) {
        for (index, host) in self.host.counters.iter().enumerate() {
            let kernel = self.kernel.counter(u32::try_from(index).expect("few"));
            assert_eq!(kernel, *host, "seed {:#x}, {}: counter {index}", self.seed, self.policy);
        }
    }

    pub(super) fn compare_records(&mut self) {
        for host in std::mem::take(&mut self.host.records) {
            let kernel = self.kernel.next_event();
            assert_eq!(kernel, Some(host), "seed {:#x}, policy {}", self.seed, self.policy);
            self.told += host.packets;
        }
        assert_eq!(self.kernel.next_event(), None, "a record that the host has not");
    }

    /// Every packet that did not simply pass is told, pending or lost, and nothing else is.
    pub(super) fn compare_totals(&self) {
        let packets = |from: usize, to: usize| -> u64 {
            self.host.counters[from..to].iter().map(|counter| counter.packets).sum()
        };
        let passed = Reason::COUNT;
        let dropped = packets(passed, Verdict::COUNTERS);
        let lost = packets(Verdict::COUNTERS, self.host.counters.len());
        let slots = self.host.cpus.iter().flat_map(|cpu| &cpu.drops);
        let pending: u64 = slots.map(|slot| slot.packets).sum();
        assert_eq!(dropped, self.told + pending + lost, "seed {:#x}", self.seed);
    }

    /// Whether the verdict is one that the longest of all entries allows: found without filters,
    /// hash and trie, so that a mistake that host and kernel share is seen too.
    pub(super) fn agrees_with_the_lists(&self, frame: &[u8], decision: &Decision) -> bool {
        let listed =
            if self.has_lists { self.host.naive_list(decision.source) } else { ListVerdict::None };
        let may_enter = listed == ListVerdict::Allow
            || listed == ListVerdict::None && !self.host.policy.settings.has(flags::DEFAULT_DENY);
        let to_failsafe = parsed(frame)
            .is_some_and(|headers| headers.protocol == 6 && headers.destination_port == 22);
        let to_listed = parsed(frame).is_some_and(|headers| {
            headers.has_ports && matches!(headers.destination_port, 53 | 8080 | 49152)
        });
        match decision.verdict.reason {
            Reason::Essential | Reason::Malformed | Reason::Forwarded | Reason::Banned => true,
            Reason::Trusted => listed == ListVerdict::Trusted,
            Reason::Denied => listed == ListVerdict::Deny && !to_failsafe,
            Reason::NotAllowed => {
                !to_failsafe && (to_listed || !may_enter && listed == ListVerdict::None)
            }
            Reason::Failsafe => to_failsafe,
            _ => to_failsafe || may_enter,
        }
    }
}
