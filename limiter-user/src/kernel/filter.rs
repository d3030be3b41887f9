//! The filter before the bans, as the agent keeps it: it is the only writer, so that what the map
//! holds is known without reading it.

use aya::maps::{Array, MapData};
use limiter_common::{
    ban::{FILTER_WORDS, FilterBit},
    maps,
};

use super::{KernelError, pins::Pins};

/// The map, what is in it, and how many bans need each bit.
pub(super) struct BanFilter {
    map: Array<MapData, u64>,
    words: Vec<u64>,
    needed_by: Vec<u32>,
}

impl BanFilter {
    pub(super) fn open(pins: &Pins) -> Result<Self, KernelError> {
        let map: Array<MapData, u64> = pins.map(maps::BAN_FILTER)?;
        let words = (0..FILTER_WORDS)
            .map(|index| map.get(&index, 0))
            .collect::<Result<_, _>>()
            .map_err(|error| KernelError::system("reading the ban filter", &error))?;
        Ok(Self { map, words, needed_by: vec![0; FILTER_WORDS as usize * 64] })
    }

    /// Makes the filter that of these bits and no others. Bits that were set and are needed stay
    /// set all the while, so that no ban is out of force meanwhile.
    pub(super) fn rebuild(
        &mut self,
        bits: impl Iterator<Item = FilterBit>,
    ) -> Result<(), KernelError> {
        self.needed_by.fill(0);
        let mut words = vec![0; FILTER_WORDS as usize];
        for bit in bits {
            self.needed_by[position(bit)] += 1;
            words[bit.word as usize] |= bit.mask;
        }
        for (index, word) in (0..).zip(words) {
            self.write(index, word)?;
        }
        Ok(())
    }

    /// Sets the bits of a ban that has been inserted.
    pub(super) fn add(&mut self, bits: impl Iterator<Item = FilterBit>) -> Result<(), KernelError> {
        self.change(bits, |needed_by| needed_by.saturating_add(1))
    }

    /// Clears the bits of a ban that was removed, where no other needs them.
    pub(super) fn remove(
        &mut self,
        bits: impl Iterator<Item = FilterBit>,
    ) -> Result<(), KernelError> {
        self.change(bits, |needed_by| needed_by.saturating_sub(1))
    }

    /// Neighbouring bits share a word, which is written once.
    fn change(
        &mut self,
        bits: impl Iterator<Item = FilterBit>,
        by: impl Fn(u32) -> u32,
    ) -> Result<(), KernelError> {
        let mut changed = (0, self.words[0]);
        for bit in bits {
            if bit.word != changed.0 {
                self.write(changed.0, changed.1)?;
                changed = (bit.word, self.words[bit.word as usize]);
            }
            let needed_by = &mut self.needed_by[position(bit)];
            *needed_by = by(*needed_by);
            if *needed_by == 0 {
                changed.1 &= !bit.mask;
            } else {
                changed.1 |= bit.mask;
            }
        }
        self.write(changed.0, changed.1)
    }

    fn write(&mut self, index: u32, word: u64) -> Result<(), KernelError> {
        if self.words[index as usize] == word {
            return Ok(());
        }
        self.map
            .set(index, word, 0)
            .map_err(|error| KernelError::system("writing the ban filter", &error))?;
        self.words[index as usize] = word;
        Ok(())
    }
}

const fn position(bit: FilterBit) -> usize {
    bit.word as usize * 64 + bit.mask.trailing_zeros() as usize
}
