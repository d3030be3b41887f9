//! The embedded program into the kernel, once for each interface, over shared pinned maps.

use aya::{
    Ebpf, EbpfLoader, TestRun,
    maps::MapType,
    programs::{ProgramError, TestRunOptions, Xdp},
};
use aya_log::EbpfLogger;
use aya_obj::{Object, generated::bpf_map_type};
use limiter_common::{maps, maps::VALUE_SIZES, source::set_count};
use log::LevelFilter;

use super::{
    KernelError,
    image::Running,
    pins::{Pins, Shape},
    tables::Maps,
};
use crate::{clock, policy::KernelPolicy};

/// Reads what the program logs, if it was loaded to log anything.
pub(super) type KernelLogger = EbpfLogger<&'static dyn log::Log>;

/// The object that `cargo xtask build-ebpf` built.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("LIMITER_EBPF_OBJECT"));

/// Name of the program that decides.
const PROGRAM: &str = "limiter";

/// Name of the program that tells what time it is.
const CLOCK_PROBE: &str = "clock_probe";

/// The program of one interface: loaded once for each, so that each counts apart at no cost.
pub(super) struct LoadedProgram(Ebpf);

impl LoadedProgram {
    /// Loads the program with the counters of this slot; makes and pins the maps that are missing.
    pub(super) fn load(
        pins: &Pins,
        slot: u32,
        is_loopback: bool,
        diagnostics: LevelFilter,
    ) -> Result<Self, KernelError> {
        load(pins, slot, is_loopback, diagnostics).map(Self)
    }

    /// The reader of the program's diagnostics.
    pub(super) fn logger(&mut self) -> Result<KernelLogger, KernelError> {
        EbpfLogger::init(&mut self.0)
            .map_err(|error| KernelError::system("opening the kernel's diagnostics", &error))
    }

    pub(super) fn program(&mut self) -> Result<&mut Xdp, KernelError> {
        xdp(&mut self.0, PROGRAM)
    }
}

/// The maps of the object that are pinned, as it defines them, by name.
pub(super) fn shapes() -> Result<Vec<(String, Shape)>, KernelError> {
    let object = Object::parse(OBJECT)
        .map_err(|error| KernelError::system("reading the eBPF object", &error))?;
    let pinned = pinned_maps();
    let maps = object.maps.iter().filter(|(name, _)| pinned.contains(&name.as_str()));
    maps.map(|(name, map)| {
        let kind = bpf_map_type::try_from(map.map_type())
            .ok()
            .and_then(|kind| MapType::try_from(kind).ok())
            .ok_or_else(|| KernelError::System(format!("{name} has an unknown type")))?;
        let shape = Shape {
            kind,
            key_size: map.key_size(),
            value_size: map.value_size(),
            max_entries: map.max_entries(),
            flags: map.map_flags(),
        };
        Ok((name.clone(), shape))
    })
    .collect()
}

/// What outlives the agent.
pub(super) fn pinned_maps() -> Vec<&'static str> {
    VALUE_SIZES.iter().map(|(name, ..)| *name).chain([maps::EVENTS]).collect()
}

/// Whether every source on the interface is an address of this host.
pub(super) fn is_loopback(name: &str) -> bool {
    name == "lo"
}

fn load(
    pins: &Pins,
    slot: u32,
    is_loopback: bool,
    diagnostics: LevelFilter,
) -> Result<Ebpf, KernelError> {
    // Diagnostics cost nothing while off: the verifier removes them.
    let globals = [
        ("AYA_LOG_LEVEL", vec![diagnostics as u8]),
        ("INTERFACE", slot.to_ne_bytes().to_vec()),
        ("LOOPBACK", u32::from(is_loopback).to_ne_bytes().to_vec()),
    ];
    let mut ebpf = object(pins, &globals)?;
    for name in [PROGRAM, CLOCK_PROBE] {
        xdp(&mut ebpf, name)?
            .load()
            .map_err(|error| explain(&format!("loading the program {name}"), &error))?;
    }
    Ok(ebpf)
}

/// The object over the pinned maps, which are made where they are missing, with these values of
/// its globals. None of its programs is loaded.
pub(super) fn object(pins: &Pins, globals: &[(&str, Vec<u8>)]) -> Result<Ebpf, KernelError> {
    let mut loader = EbpfLoader::new();
    for (name, value) in globals {
        loader.override_global(name, value.as_slice(), true);
    }
    for (name, size) in pins.sizes() {
        loader.map_max_entries(name, *size);
    }
    let paths: Vec<_> = pinned_maps().into_iter().map(|name| (name, pins.path(name))).collect();
    for (name, path) in &paths {
        loader.map_pin_path(name, path.as_path());
    }
    loader.load(OBJECT).map_err(|error| explain("loading the eBPF object", &error))
}

/// Loads the program with maps of its own, which go with it; how many instructions were verified
/// (0: before kernel 5.16 it is not told).
pub(super) fn try_out() -> Result<u32, KernelError> {
    let mut loader = EbpfLoader::new();
    let level = LevelFilter::Off as u8;
    loader.override_global("AYA_LOG_LEVEL", &level, true);
    // The size of the tables is not what is tried.
    loader.map_max_entries(maps::KEYS, 1).map_max_entries(maps::SLOTS, 1);
    loader.map_max_entries(maps::BANS, 1);
    let mut ebpf =
        loader.load(OBJECT).map_err(|error| explain("loading the eBPF object", &error))?;
    let program = xdp(&mut ebpf, PROGRAM)?;
    program.load().map_err(|error| explain(&format!("loading the program {PROGRAM}"), &error))?;
    let info = program.info().map_err(|error| KernelError::system(PROGRAM, &error))?;
    Ok(info.verified_instruction_count().unwrap_or(0))
}

pub(super) fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp, KernelError> {
    ebpf.program_mut(name)
        .ok_or_else(|| KernelError::System(format!("the object has no program {name}")))?
        .try_into()
        .map_err(|error: ProgramError| KernelError::system(name, &error))
}

/// Names the missing capability where that is what failed.
pub(super) fn explain(doing: &str, error: &dyn std::error::Error) -> KernelError {
    let failed = KernelError::system(doing, error);
    let missing = missing_capabilities();
    if missing.is_empty() {
        return failed;
    }
    KernelError::Host(format!("{failed}; missing capabilities: {}", missing.join(", ")))
}

/// The capabilities that loading and attaching need and this process lacks.
pub(super) fn missing_capabilities() -> Vec<String> {
    use caps::{CapSet, Capability};
    [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_PERFMON]
        .into_iter()
        .filter(|capability| !caps::has_cap(None, CapSet::Effective, *capability).unwrap_or(false))
        .map(|capability| capability.to_string())
        .collect()
}

/// What belongs to the tables that were found or made, and to this kernel's clock.
pub(super) fn running(
    maps: &Maps,
    policy: &KernelPolicy,
    loaded: &LoadedProgram,
) -> Result<Running, KernelError> {
    let set_mask = u64::from(set_count(policy.max_sources)) - 1;
    let found = maps.active_settings()?;
    // The sources lie where the seed put them: an earlier agent's seed stays with its table.
    let hash_seed = if found.set_mask == set_mask && found.hash_seed != 0 {
        found.hash_seed
    } else {
        random_seed()?
    };
    let tick_ns = clock::tick_ns();
    let tick_offset_ns = tick_offset_ns(&loaded.0, tick_ns)?;
    Ok(Running { generation: found.generation + 1, set_mask, hash_seed, tick_ns, tick_offset_ns })
}

fn random_seed() -> Result<u64, KernelError> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|error| KernelError::system("asking for random bytes", &error))?;
    Ok(u64::from_le_bytes(bytes) | 1)
}

/// How far `CLOCK_MONOTONIC` is ahead of jiffies times the tick.
///
/// A jiffy begins somewhere between two probes, so the smallest difference over more than one tick
/// is the closest: the coarse clock then lags by less than a tick and never runs ahead.
fn tick_offset_ns(ebpf: &Ebpf, tick_ns: u64) -> Result<u64, KernelError> {
    let program: &Xdp = ebpf
        .program(CLOCK_PROBE)
        .ok_or_else(|| KernelError::System("the object has no clock probe".to_owned()))?
        .try_into()
        .map_err(|error: ProgramError| KernelError::system("the clock probe", &error))?;
    let until = clock::monotonic_ns() + 3 * tick_ns;
    let mut smallest: Option<u64> = None;
    while clock::monotonic_ns() < until {
        let input = [0_u8; 64];
        let mut output = [0_u8; 64];
        program
            .test_run(TestRunOptions {
                data_in: Some(&input),
                data_out: Some(&mut output),
                ..TestRunOptions::default()
            })
            .map_err(|error| KernelError::system("asking the kernel for the time", &error))?;
        let (jiffies, rest) = output.split_first_chunk().unwrap_or((&[0; 8], &[]));
        let ktime_ns = rest.first_chunk().unwrap_or(&[0; 8]);
        let difference = u64::from_le_bytes(*ktime_ns)
            .wrapping_sub(u64::from_le_bytes(*jiffies).wrapping_mul(tick_ns));
        // Differences lie within a few ticks of each other, possibly across zero.
        let is_smaller =
            smallest.is_none_or(|best| difference.wrapping_sub(best).cast_signed() < 0);
        if is_smaller {
            smallest = Some(difference);
        }
    }
    smallest.ok_or_else(|| KernelError::System("the clock probe never ran".to_owned()))
}
