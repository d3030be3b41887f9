//! One half of the list maps.

use aya::{
    Ebpf,
    maps::{HashMap, LpmTrie, MapData, lpm_trie::Key},
};
use limiter_common::{address::Address, maps::ADMIT_KEY_BYTES};

use super::{map, typed};
use crate::lists::Lists;

/// The maps, and what they hold.
pub(super) struct Half {
    exact: HashMap<MapData, [u8; 16], u64>,
    prefixes: LpmTrie<MapData, [u8; 16], u64>,
    admitted: LpmTrie<MapData, [u8; ADMIT_KEY_BYTES], u64>,
    pub(super) loaded: Lists,
}

impl Half {
    /// The maps of these names: exact entries, prefixes, lists of services.
    pub(super) fn new(ebpf: &mut Ebpf, [exact, prefixes, admitted]: [&str; 3]) -> Self {
        Self {
            exact: typed(map(ebpf, exact)),
            prefixes: typed(map(ebpf, prefixes)),
            admitted: typed(map(ebpf, admitted)),
            loaded: Lists::default(),
        }
    }

    /// Removes everything and adds these.
    pub(super) fn replace(&mut self, lists: Lists) {
        for (length, address, _) in &self.loaded.entries {
            let bytes = address.to_bytes();
            if *length == 128 {
                self.exact.remove(&bytes).expect("an entry is removed");
            } else {
                self.prefixes.remove(&Key::new(*length, bytes)).expect("an entry is removed");
            }
        }
        for (service, length, address) in &self.loaded.admitted {
            let key = admit_key(*service, *length, *address);
            self.admitted.remove(&key).expect("an entry is removed");
        }
        for (length, address, value) in &lists.entries {
            let (bytes, word) = (address.to_bytes(), value.word());
            if *length == 128 {
                self.exact.insert(bytes, word, 0).expect("an entry is written");
            } else {
                let key = Key::new(*length, bytes);
                self.prefixes.insert(&key, word, 0).expect("an entry is written");
            }
        }
        for (service, length, address) in &lists.admitted {
            let key = admit_key(*service, *length, *address);
            self.admitted.insert(&key, 1, 0).expect("an entry is written");
        }
        self.loaded = lists;
    }
}

fn admit_key(service: u32, length: u32, address: Address) -> Key<[u8; ADMIT_KEY_BYTES]> {
    let mut bytes = [0; ADMIT_KEY_BYTES];
    bytes[..4].copy_from_slice(&service.to_be_bytes());
    bytes[4..].copy_from_slice(&address.to_bytes());
    Key::new(32 + length, bytes)
}
