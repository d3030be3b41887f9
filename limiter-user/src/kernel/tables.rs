//! The maps with their types, opened from their pins, so that they are the same whoever made them.

use aya::maps::{Array, HashMap, LpmTrie, MapData, PerCpuArray, PerCpuValues, lpm_trie::Key};
use limiter_common::{
    ban::Ban,
    maps::{self, control},
    report::Counter,
    settings::{Settings, flags},
    source::SET_WORDS,
};

use super::{KernelError, image::KernelImage, pins::Pins, plain::Plain, plan::InForce};

/// The tables, typed.
pub(super) struct Maps {
    pub(super) control: Array<MapData, u64>,
    pub(super) settings: Array<MapData, Plain<Settings>>,
    pub(super) sources: Array<MapData, [u64; SET_WORDS]>,
    pub(super) bans: HashMap<MapData, u64, Plain<Ban>>,
    pub(super) lists_first: LpmTrie<MapData, [u8; 16], u64>,
    pub(super) lists_second: LpmTrie<MapData, [u8; 16], u64>,
    pub(super) counters: PerCpuArray<MapData, Plain<Counter>>,
}

impl Maps {
    pub(super) fn open(pins: &Pins) -> Result<Self, KernelError> {
        Ok(Self {
            control: pins.map(maps::CONTROL)?,
            settings: pins.map(maps::SETTINGS)?,
            sources: pins.map(maps::SOURCES)?,
            bans: pins.map(maps::BANS)?,
            lists_first: pins.map(maps::LISTS_FIRST)?,
            lists_second: pins.map(maps::LISTS_SECOND)?,
            counters: pins.map(maps::COUNTERS)?,
        })
    }

    pub(super) fn word(&self, index: u32) -> Result<u64, KernelError> {
        self.control
            .get(&index, 0)
            .map_err(|error| KernelError::system("reading the control words", &error))
    }

    pub(super) fn set_word(&mut self, index: u32, word: u64) -> Result<(), KernelError> {
        self.control
            .set(index, word, 0)
            .map_err(|error| KernelError::system("writing the control words", &error))
    }

    pub(super) fn active_settings(&self) -> Result<Settings, KernelError> {
        let index = u32::from(self.word(control::ACTIVE)? != 0);
        self.settings
            .get(&index, 0)
            .map(|Plain(settings)| settings)
            .map_err(|error| KernelError::system("reading the settings", &error))
    }

    pub(super) fn in_force(&self) -> Result<InForce, KernelError> {
        let settings = u32::from(self.word(control::ACTIVE)? != 0);
        let lists_second = self.active_settings()?.has(flags::LISTS_SECOND);
        Ok(InForce { settings, lists_second })
    }

    /// Makes a trie that is not in force hold exactly these lists.
    pub(super) fn fill_lists(
        &mut self,
        second: bool,
        image: &KernelImage,
    ) -> Result<(), KernelError> {
        let trie = if second { &mut self.lists_second } else { &mut self.lists_first };
        // Deleting while iterating would restart the kernel's cursor.
        let stale: Vec<_> = trie.keys().filter_map(Result::ok).collect();
        for key in stale {
            trie.remove(&key).map_err(|error| KernelError::system("clearing a list", &error))?;
        }
        for ((length, bytes), verdict) in &image.lists {
            trie.insert(&Key::new(*length, *bytes), *verdict as u64, 0)
                .map_err(|error| KernelError::system("filling a list", &error))?;
        }
        Ok(())
    }

    /// Makes the counters of an interface zero. Nothing counts in them meanwhile.
    pub(super) fn clear_counters(&mut self, interface: u32) -> Result<(), KernelError> {
        let failed =
            |error: &dyn std::error::Error| KernelError::system("clearing counters", error);
        let first = interface * maps::COUNTERS_PER_INTERFACE;
        for index in first..first + maps::COUNTERS_PER_INTERFACE {
            if self.counter(index).packets == 0 {
                continue;
            }
            let values = self.counters.get(&index, 0).map_err(|error| failed(&error))?;
            let zeros = vec![Plain(Counter::default()); values.len()];
            let zeros = PerCpuValues::try_from(zeros).map_err(|error| failed(&error))?;
            self.counters.set(index, zeros, 0).map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    pub(super) fn counter(&self, index: u32) -> Counter {
        let mut sum = Counter::default();
        if let Ok(values) = self.counters.get(&index, 0) {
            for Plain(counter) in values.iter() {
                sum.packets = sum.packets.wrapping_add(counter.packets);
                sum.bytes = sum.bytes.wrapping_add(counter.bytes);
            }
        }
        sum
    }
}
