//! The filter before the bans, as the agent keeps it: it is the only writer.

use std::collections::HashMap;

use aya::maps::{Array, MapData};
use limiter_common::{
    ban::{FILTER_WORDS, FilterBit},
    maps,
};

use super::{KernelError, pins::Pins};

/// The map, and how many bans share each set bit.
pub(super) struct BanFilter {
    map: Array<MapData, u64>,
    bans: HashMap<FilterBit, u32>,
}

impl BanFilter {
    pub(super) fn open(pins: &Pins) -> Result<Self, KernelError> {
        Ok(Self { map: pins.map(maps::BAN_FILTER)?, bans: HashMap::new() })
    }

    /// Makes the filter that of these ban keys. Bits are set before stale ones are cleared, so
    /// that no ban is out of force meanwhile.
    pub(super) fn rebuild(&mut self, keys: &[u64]) -> Result<(), KernelError> {
        self.bans.clear();
        for key in keys {
            self.add(*key)?;
        }
        let mut words = vec![0; FILTER_WORDS as usize];
        for bit in self.bans.keys() {
            words[bit.word as usize] |= bit.mask;
        }
        for (index, word) in (0..).zip(words) {
            if self.word(index)? != word {
                self.set_word(index, word)?;
            }
        }
        Ok(())
    }

    /// Sets the bit of a ban that has been inserted.
    pub(super) fn add(&mut self, key: u64) -> Result<(), KernelError> {
        let bit = FilterBit::of(key);
        let word = self.word(bit.word)?;
        if word & bit.mask == 0 {
            self.set_word(bit.word, word | bit.mask)?;
        }
        *self.bans.entry(bit).or_default() += 1;
        Ok(())
    }

    /// Clears the bit of a ban that was removed, if no other needs it.
    pub(super) fn remove(&mut self, key: u64) -> Result<(), KernelError> {
        let bit = FilterBit::of(key);
        match self.bans.get_mut(&bit) {
            Some(bans) if *bans > 1 => *bans -= 1,
            Some(_) => {
                self.bans.remove(&bit);
                let word = self.word(bit.word)?;
                self.set_word(bit.word, word & !bit.mask)?;
            }
            None => {}
        }
        Ok(())
    }

    fn word(&self, index: u32) -> Result<u64, KernelError> {
        self.map
            .get(&index, 0)
            .map_err(|error| KernelError::system("reading the ban filter", &error))
    }

    fn set_word(&mut self, index: u32, word: u64) -> Result<(), KernelError> {
        self.map
            .set(index, word, 0)
            .map_err(|error| KernelError::system("writing the ban filter", &error))
    }
}
