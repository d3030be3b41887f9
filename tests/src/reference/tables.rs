//! `Tables` over plain memory, each look-up counted.

use limiter_common::{
    address::Address,
    decide::Tables,
    headers::Headers,
    limits::Buckets,
    lists::ListValue,
    machine::Native,
    settings::{ServiceSettings, Settings},
    source::{ClaimBudget, KeySet, SlotSet},
};

use super::Reference;
use crate::lists::covers;

impl Tables for Reference {
    type Machine = Native;

    fn settings(&self) -> &Settings {
        &self.policy.settings
    }

    fn interface(&self) -> u32 {
        0
    }

    fn is_loopback(&self) -> bool {
        false
    }

    fn cpu(&self) -> u32 {
        self.cpu
    }

    fn random(&self) -> u32 {
        let [.., b4, b5, b6, b7] = self.policy.settings.fixed_now_ns.to_be_bytes();
        u32::from_be_bytes([b4, b5, b6, b7])
    }

    fn port_word(&self, word: u32) -> u64 {
        self.count(|operations| operations.arrays += 1);
        self.policy.ports[word as usize]
    }

    fn service(&self, number: u32) -> Option<&ServiceSettings> {
        self.count(|operations| operations.arrays += 1);
        self.policy.services.get(number as usize)
    }

    fn ban_filter(&self, word: u32) -> u64 {
        self.count(|operations| operations.arrays += 1);
        self.ban_filter[word as usize]
    }

    fn ban_expiry_ns(&self, key: u64) -> Option<u64> {
        self.count(|operations| operations.hashes += 1);
        let mut bans = self.bans.borrow_mut();
        let ban = bans.get_mut(&key)?;
        ban.packets += 1;
        Some(ban.expires_ns)
    }

    fn has_prefix_bans(&self) -> bool {
        !self.prefix_bans.borrow().is_empty()
    }

    fn prefix_ban_expiry_ns(&self, address: Address) -> Option<u64> {
        self.count(|operations| operations.tries += 1);
        let mut bans = self.prefix_bans.borrow_mut();
        let covering =
            bans.iter_mut().filter(|((length, prefix), _)| covers(*length, *prefix, address));
        let (_, ban) = covering.max_by_key(|((length, _), _)| *length)?;
        ban.packets += 1;
        Some(ban.expires_ns)
    }

    fn list_filter(&self, word: u32) -> u64 {
        self.count(|operations| operations.arrays += 1);
        self.list_in_force().filter.get(word as usize).copied().unwrap_or(0)
    }

    fn list_bitmap(&self, word: u32) -> u64 {
        self.count(|operations| operations.arrays += 1);
        self.list_in_force().bitmap.get(word as usize).copied().unwrap_or(0)
    }

    fn list_exact(&self, address: Address) -> Option<ListValue> {
        self.count(|operations| operations.hashes += 1);
        let entries = &self.list_in_force().entries;
        entries.iter().find(|entry| entry.0 == 128 && entry.1 == address).map(|entry| entry.2)
    }

    fn list_prefix(&self, address: Address) -> Option<ListValue> {
        self.count(|operations| operations.tries += 1);
        let prefixes = self.list_in_force().entries.iter().filter(|entry| entry.0 < 128);
        let covering = prefixes.filter(|entry| covers(entry.0, entry.1, address));
        covering.max_by_key(|entry| entry.0).map(|entry| entry.2)
    }

    fn is_listed(&self, service: u32, address: Address) -> bool {
        self.count(|operations| operations.tries += 1);
        let mut admitted = self.list_in_force().admitted.iter();
        admitted
            .any(|(number, length, prefix)| *number == service && covers(*length, *prefix, address))
    }

    fn keys(&self, set: u32) -> Option<&KeySet> {
        self.count(|operations| operations.arrays += 1);
        self.keys.get(set as usize)
    }

    fn slots(&self, set: u32) -> Option<&SlotSet> {
        self.count(|operations| operations.arrays += 1);
        self.slots.get(set as usize)
    }

    fn claim_budget(&self) -> Option<&ClaimBudget> {
        self.count(|operations| operations.arrays += 1);
        Some(&self.cpus[self.cpu as usize].claims)
    }

    fn totals(&self, service: u32) -> Option<&Buckets> {
        self.count(|operations| operations.arrays += 1);
        self.totals.get(service as usize)
    }

    fn pending(&self, service: u32) -> Option<&Buckets> {
        self.count(|operations| operations.arrays += 1);
        self.cpus[self.cpu as usize].pending.get(service as usize)
    }

    fn open_connections(&self, key: u64) -> u64 {
        self.count(|operations| operations.hashes += 1);
        self.connections.get(&key).copied().unwrap_or(0)
    }

    fn open_total(&self, service: u32) -> u64 {
        self.count(|operations| operations.arrays += 1);
        self.open_totals[service as usize]
    }

    fn is_reply(&self, _headers: &Headers) -> bool {
        self.count(|operations| operations.stack += 1);
        false
    }

    fn is_forwarded(&self, headers: &Headers) -> bool {
        self.count(|operations| operations.stack += 1);
        // Nobody sends on what comes from a link-local address (RFC 4291, 2.5.6).
        headers.source.high >> 54 != 0xfe80 >> 6
            && self.routes.iter().any(|route| covers(route.0, route.1, headers.destination))
    }

    fn has_syn_cookies(&self) -> bool {
        false
    }

    fn answer(&self, _headers: &Headers) -> bool {
        false
    }
}
