//! One half of the lists as the kernel has it, and what is known to lie there, so that a change
//! writes only what differs: a new list of a million entries costs seconds, one more entry nothing.

use std::thread;

use aya::maps::{HashMap, LpmTrie, MapData, MapError, lpm_trie::Key};
use limiter_common::{lists::ListValue, maps::ADMIT_KEY_BYTES};

use super::{
    KernelError,
    lists::{ListEntry, Lists, Prefix},
    pins::Pins,
};

/// How many single addresses, and how many networks, a half has room for.
pub(super) const CAPACITY: usize = 1 << 20;

/// One half of the lists.
pub(super) struct ListMaps {
    exact: HashMap<MapData, [u8; 16], u64>,
    prefixes: LpmTrie<MapData, [u8; 16], u64>,
    admitted: LpmTrie<MapData, [u8; ADMIT_KEY_BYTES], u64>,
    /// What lies in the first two; `None`: an earlier agent's, or a change that failed midway.
    content: Option<Lists>,
}

impl ListMaps {
    pub(super) fn open(
        pins: &Pins,
        [exact, prefixes, admitted]: [&str; 3],
    ) -> Result<Self, KernelError> {
        Ok(Self {
            exact: pins.map(exact)?,
            prefixes: pins.map(prefixes)?,
            admitted: pins.map(admitted)?,
            content: None,
        })
    }

    /// Whether it is known to hold exactly these.
    pub(super) fn holds(&self, lists: &Lists) -> bool {
        self.content.as_ref() == Some(lists)
    }

    /// Makes it hold exactly these. Nobody looks meanwhile: this half is not in force. Addresses
    /// and networks at the same time: a million of both is a matter of seconds.
    pub(super) fn fill(&mut self, lists: &Lists) -> Result<(), KernelError> {
        let known = self.content.take();
        let before = known.unwrap_or_else(|| Lists::sorted(self.read()));
        let Self { exact, prefixes, .. } = self;
        let (of_addresses, of_networks) = thread::scope(|scope| {
            let networks = scope.spawn(|| {
                let change = |entry: &ListEntry, insert: bool| {
                    let key = Key::new(u32::from(entry.prefix.length), entry.prefix.bytes());
                    if insert {
                        prefixes.insert(&key, entry.value.word(), 0)
                    } else {
                        prefixes.remove(&key)
                    }
                };
                write(&before, lists, |prefix| prefix.length < 128, change)
            });
            let change = |entry: &ListEntry, insert: bool| {
                let key = entry.prefix.bytes();
                if insert { exact.insert(key, entry.value.word(), 0) } else { exact.remove(&key) }
            };
            let of_addresses = write(&before, lists, |prefix| prefix.length == 128, change);
            (of_addresses, networks.join())
        });
        of_addresses?;
        of_networks.unwrap_or_else(|_| {
            Err(KernelError::System("filling a list: the thread that did it failed".to_owned()))
        })?;
        self.content = Some(lists.clone());
        Ok(())
    }

    fn read(&self) -> Vec<ListEntry> {
        let exact = self.exact.iter().filter_map(Result::ok).map(|(bytes, word)| ListEntry {
            prefix: Prefix { bits: u128::from_be_bytes(bytes), length: 128 },
            value: ListValue::from_word(word),
        });
        let prefixes = || {
            let entries = self.prefixes.iter().filter_map(Result::ok).map(|(key, word)| {
                let length = u8::try_from(key.prefix_len()).unwrap_or(u8::MAX);
                let prefix = Prefix { bits: u128::from_be_bytes(key.data()), length };
                ListEntry { prefix, value: ListValue::from_word(word) }
            });
            entries.collect::<Vec<_>>()
        };
        thread::scope(|scope| {
            let prefixes = scope.spawn(prefixes);
            let mut entries: Vec<_> = exact.collect();
            entries.extend(prefixes.join().unwrap_or_default());
            entries
        })
    }

    /// Makes the lists of services exactly these.
    pub(super) fn fill_admitted(&mut self, admitted: &[(u32, Prefix)]) -> Result<(), KernelError> {
        let failed = |error| KernelError::system("filling the list of a service", &error);
        // Deleting while iterating would restart the kernel's cursor.
        let stale: Vec<_> = self.admitted.keys().filter_map(Result::ok).collect();
        for key in stale {
            self.admitted.remove(&key).map_err(failed)?;
        }
        for (number, prefix) in admitted {
            let mut bytes = [0; ADMIT_KEY_BYTES];
            let (service, address) = bytes.split_at_mut(4);
            service.copy_from_slice(&number.to_be_bytes());
            address.copy_from_slice(&prefix.bytes());
            let key = Key::new(32 + u32::from(prefix.length), bytes);
            self.admitted.insert(&key, 1, 0).map_err(failed)?;
        }
        Ok(())
    }
}

/// Writes what differs, of the entries that are meant. What goes makes room for what comes.
fn write(
    before: &Lists,
    lists: &Lists,
    is_meant: impl Fn(Prefix) -> bool,
    mut change: impl FnMut(&ListEntry, bool) -> Result<(), MapError>,
) -> Result<(), KernelError> {
    for entry in before.without(lists).filter(|entry| is_meant(entry.prefix)) {
        change(entry, false).map_err(|error| KernelError::system("clearing a list", &error))?;
    }
    for entry in lists.changed_from(before).filter(|entry| is_meant(entry.prefix)) {
        change(entry, true).map_err(|error| KernelError::system("filling a list", &error))?;
    }
    Ok(())
}
