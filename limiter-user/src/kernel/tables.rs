//! The maps with their types, opened from their pins, so that they are the same whoever made them.

use std::sync::atomic::Ordering::Relaxed;

use aya::maps::{Array, HashMap, MapData, PerCpuArray, PerCpuValues};
use limiter_common::{
    connection::count_in,
    headers::Flaw,
    limits::{BUCKET_WORDS, Buckets},
    maps::{self, SERVICE_COUNT, control},
    report::Counter,
    settings::{ServiceSettings, Settings, flags},
    source::{KEY_WORDS, KeySet, SET_WORDS, SlotSet},
};

use super::{
    KernelError, image::KernelImage, list_maps::ListMaps, lists::Filters, mapped::Mapped,
    pins::Pins, plain::Plain, plan::InForce,
};

/// The tables, typed.
pub(super) struct Maps {
    control: Mapped,
    settings: Array<MapData, Plain<Settings>>,
    services: Array<MapData, Plain<ServiceSettings>>,
    ports: Mapped,
    keys: Mapped,
    slots: Mapped,
    /// `None`: being filled elsewhere.
    lists: [Option<ListMaps>; 2],
    filter: Mapped,
    bitmap: Mapped,
    totals: Array<MapData, [u64; BUCKET_WORDS]>,
    connections: HashMap<MapData, u64, u64>,
    open_totals: Array<MapData, u64>,
    counters: PerCpuArray<MapData, Plain<Counter>>,
    flaws: PerCpuArray<MapData, u64>,
}

impl Maps {
    pub(super) fn open(pins: &Pins) -> Result<Self, KernelError> {
        let mapped = |name| Mapped::open(&pins.data(name)?, name);
        Ok(Self {
            control: mapped(maps::CONTROL)?,
            settings: pins.map(maps::SETTINGS)?,
            services: pins.map(maps::SERVICES)?,
            ports: mapped(maps::PORTS)?,
            keys: mapped(maps::KEYS)?,
            slots: mapped(maps::SLOTS)?,
            lists: [
                Some(ListMaps::open(
                    pins,
                    [maps::EXACT_FIRST, maps::LISTS_FIRST, maps::ADMIT_FIRST],
                )?),
                Some(ListMaps::open(
                    pins,
                    [maps::EXACT_SECOND, maps::LISTS_SECOND, maps::ADMIT_SECOND],
                )?),
            ],
            filter: mapped(maps::LIST_FILTER)?,
            bitmap: mapped(maps::LIST_BITMAP)?,
            totals: pins.map(maps::TOTALS)?,
            connections: pins.map(maps::CONNECTIONS)?,
            open_totals: pins.map(maps::OPEN_TOTALS)?,
            counters: pins.map(maps::COUNTERS)?,
            flaws: pins.map(maps::FLAWS)?,
        })
    }

    /// One of the words of [`control`].
    pub(super) fn word(&self, index: usize) -> u64 {
        self.control.words().get(index).map_or(0, |word| word.load(Relaxed))
    }

    pub(super) fn set_word(&self, index: usize, value: u64) {
        if let Some(word) = self.control.words().get(index) {
            word.store(value, Relaxed);
        }
    }

    pub(super) fn active_settings(&self) -> Result<Settings, KernelError> {
        let index = u32::from(self.word(control::ACTIVE) != 0);
        self.settings
            .get(&index, 0)
            .map(|Plain(settings)| settings)
            .map_err(|error| KernelError::system("reading the settings", &error))
    }

    pub(super) fn in_force(&self) -> Result<InForce, KernelError> {
        let settings = u32::from(self.word(control::ACTIVE) != 0);
        let lists_second = self.active_settings()?.has(flags::LISTS_SECOND);
        Ok(InForce { settings, lists_second })
    }

    /// Writes the settings, services and ports that are not in force.
    pub(super) fn write_settings(
        &mut self,
        index: u32,
        settings: &Settings,
        image: &KernelImage,
    ) -> Result<(), KernelError> {
        let failed = |error| KernelError::system("writing settings", &error);
        self.settings.set(index, Plain(*settings), 0).map_err(failed)?;
        for (number, service) in (index * SERVICE_COUNT..).zip(&image.services) {
            self.services.set(number, Plain(*service), 0).map_err(failed)?;
        }
        write(&self.ports, index as usize, &image.ports);
        Ok(())
    }

    /// Makes the half of the lists that is not in force hold exactly these. Only what differs from
    /// what lies there is written. `filters`: those of these lists, if they are made already.
    pub(super) fn fill_lists(
        &mut self,
        second: bool,
        image: &KernelImage,
        filters: Option<&Filters>,
    ) -> Result<(), KernelError> {
        let half = usize::from(second);
        let Some(maps) = self.lists[half].as_mut() else {
            let text = "other lists are on their way into the kernel; try again";
            return Err(KernelError::Host(text.to_owned()));
        };
        if !maps.holds(&image.lists) {
            maps.fill(&image.lists)?;
        }
        maps.fill_admitted(&image.admitted)?;
        let made = filters.is_none().then(|| image.lists.filters());
        if let Some(Filters { filter, bitmap }) = filters.or(made.as_ref()) {
            write(&self.filter, half, filter);
            write(&self.bitmap, half, bitmap);
        }
        Ok(())
    }

    /// Takes a half of the lists out, to be filled elsewhere.
    pub(super) fn take_half(&mut self, half: usize) -> Option<ListMaps> {
        self.lists[half].take()
    }

    /// Puts it back.
    pub(super) fn give_half(&mut self, half: usize, maps: ListMaps) {
        self.lists[half] = Some(maps);
    }

    /// Whether a half is being filled elsewhere.
    pub(super) fn is_filling(&self) -> bool {
        self.lists.iter().any(Option::is_none)
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

    /// Packets that were malformed in this way.
    pub(super) fn flaw(&self, flaw: Flaw) -> u64 {
        let values = self.flaws.get(&(flaw as u32), 0);
        values.map_or(0, |values| values.iter().sum())
    }

    /// Open connections of a source or of a source at a service.
    pub(super) fn open_connections(&self, key: u64) -> u64 {
        count_in(self.connections.get(&key, 0).unwrap_or(0))
    }

    /// Open connections of all sources together, to a service or (0) to the host.
    pub(super) fn open_total(&self, service: u32) -> u64 {
        count_in(self.open_totals.get(&service, 0).unwrap_or(0))
    }

    /// What all sources together may still send to a service or (0) to the host; without what CPUs
    /// have not charged yet.
    pub(super) fn totals(&self, service: u32) -> Buckets {
        Buckets::from_words(self.totals.get(&service, 0).unwrap_or_default())
    }

    /// How many sets the source table has.
    pub(super) fn set_count(&self) -> u32 {
        u32::try_from(self.keys.words().len() / KEY_WORDS).unwrap_or(u32::MAX)
    }

    /// The keys of one set, as they are now.
    pub(super) fn keys(&self, set: u32) -> KeySet {
        KeySet::from_words(snapshot(&self.keys, set))
    }

    /// The slots of one set, as they are now.
    pub(super) fn slots(&self, set: u32) -> SlotSet {
        SlotSet::from_words(&snapshot::<SET_WORDS>(&self.slots, set))
    }
}

/// Entry `index` of a mapped array whose values have `N` words; zeros beyond its end.
fn snapshot<const N: usize>(map: &Mapped, index: u32) -> [u64; N] {
    let mut words = [0; N];
    let start = index as usize * N;
    if let Some(found) = map.words().get(start..start + N) {
        for (word, value) in words.iter_mut().zip(found) {
            *word = value.load(Relaxed);
        }
    }
    words
}

/// Writes one half of a mapped array; words beyond those that are given become 0.
fn write(map: &Mapped, half: usize, words: &[u64]) {
    let length = map.words().len() / 2;
    let place = map.words().iter().skip(half * length).take(length);
    for (word, value) in place.zip(words.iter().copied().chain(std::iter::repeat(0))) {
        // A page that is not touched is not made.
        if word.load(Relaxed) != value {
            word.store(value, Relaxed);
        }
    }
}
