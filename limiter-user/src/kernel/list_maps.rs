//! One half of the lists as the kernel has it, and what is known to lie there, so that a change
//! writes only what differs: a new list of a million entries costs seconds, one more entry nothing.

use aya::maps::{HashMap, LpmTrie, MapData, lpm_trie::Key};
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

    /// Makes it hold exactly these. Nobody looks meanwhile: this half is not in force.
    pub(super) fn fill(&mut self, lists: &Lists) -> Result<(), KernelError> {
        let before = match self.content.take() {
            Some(content) => content,
            None => Lists::sorted(self.read()),
        };
        // What goes makes room for what comes.
        for entry in before.without(lists) {
            self.remove(entry.prefix)?;
        }
        for entry in lists.changed_from(&before) {
            self.insert(*entry)?;
        }
        self.content = Some(lists.clone());
        Ok(())
    }

    fn read(&self) -> Vec<ListEntry> {
        let exact = self.exact.iter().filter_map(Result::ok).map(|(bytes, word)| ListEntry {
            prefix: Prefix { bits: u128::from_be_bytes(bytes), length: 128 },
            value: ListValue::from_word(word),
        });
        let prefixes = self.prefixes.iter().filter_map(Result::ok).map(|(key, word)| {
            let length = u8::try_from(key.prefix_len()).unwrap_or(u8::MAX);
            let prefix = Prefix { bits: u128::from_be_bytes(key.data()), length };
            ListEntry { prefix, value: ListValue::from_word(word) }
        });
        exact.chain(prefixes).collect()
    }

    fn remove(&mut self, prefix: Prefix) -> Result<(), KernelError> {
        let removed = if prefix.length == 128 {
            self.exact.remove(&prefix.bytes())
        } else {
            self.prefixes.remove(&Key::new(u32::from(prefix.length), prefix.bytes()))
        };
        removed.map_err(|error| KernelError::system("clearing a list", &error))
    }

    fn insert(&mut self, ListEntry { prefix, value }: ListEntry) -> Result<(), KernelError> {
        let inserted = if prefix.length == 128 {
            self.exact.insert(prefix.bytes(), value.word(), 0)
        } else {
            let key = Key::new(u32::from(prefix.length), prefix.bytes());
            self.prefixes.insert(&key, value.word(), 0)
        };
        inserted.map_err(|error| KernelError::system("filling a list", &error))
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
