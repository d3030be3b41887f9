//! From an object to programs and maps by name. Panics name what is missing.

use std::{fmt, fs, path::Path, time::Duration};

use aya::{Ebpf, EbpfLoader, TestRun as _, TestRunOptions, maps::Map, programs::Xdp};
use limiter_common::maps;

use super::Options;

pub(super) fn open(path: &Path, options: Options) -> Ebpf {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let fixed = u32::from(options.fixed_clock);
    EbpfLoader::new()
        .override_global("FIXED_CLOCK", &fixed, true)
        .override_global("AYA_LOG_LEVEL", &0_u8, true)
        .map_max_entries(maps::KEYS, options.sets)
        .map_max_entries(maps::SLOTS, options.sets)
        .map_max_entries(maps::BANS, options.bans)
        .map_max_entries(maps::EXACT_FIRST, options.lists)
        .map_max_entries(maps::EXACT_SECOND, options.lists)
        .map_max_entries(maps::LISTS_FIRST, options.lists)
        .map_max_entries(maps::LISTS_SECOND, options.lists)
        .load(&bytes)
        .expect("maps are made (root)")
}

pub(super) fn load(ebpf: &mut Ebpf, name: &str) {
    xdp(ebpf, name).load().unwrap_or_else(|error| panic!("load {name}: {error}"));
}

pub(super) fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut Xdp {
    let program = ebpf.program_mut(name).unwrap_or_else(|| panic!("no program {name}"));
    program.try_into().expect("an XDP program")
}

pub(super) fn run(ebpf: &Ebpf, name: &str, frame: &[u8], repeat: u32) -> (u32, Duration) {
    let program = ebpf.program(name).unwrap_or_else(|| panic!("no program {name}"));
    let program: &Xdp = program.try_into().expect("an XDP program");
    let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::new() };
    let result = program.test_run(options);
    let result = result.unwrap_or_else(|error| panic!("{} bytes: {error}", frame.len()));
    (result.return_value, result.duration)
}

pub(super) fn verified_instructions(ebpf: &Ebpf, name: &str) -> u32 {
    let program = ebpf.program(name).unwrap_or_else(|| panic!("no program {name}"));
    let info = program.info().expect("the kernel describes its program");
    info.verified_instruction_count().unwrap_or_default()
}

pub(super) fn map(ebpf: &mut Ebpf, name: &str) -> Map {
    ebpf.take_map(name).unwrap_or_else(|| panic!("no map {name}"))
}

pub(super) fn typed<T: TryFrom<Map>>(map: Map) -> T
where
    T::Error: fmt::Debug,
{
    map.try_into().expect("a map of this type")
}
