//! The embedded program into the kernel, once for each interface, over shared pinned maps.

use aya::{
    Ebpf, EbpfLoader, TestRun,
    programs::{ProgramError, TestRunOptions, Xdp},
};
use aya_log::EbpfLogger;
use limiter_common::{maps, maps::VALUE_SIZES, source::set_count};
use log::LevelFilter;

use super::{KernelError, image::Running, pins::Pins, tables::Maps};
use crate::{clock, policy::KernelPolicy};

/// Reads what the program logs, if it was loaded to log anything.
pub(super) type KernelLogger = EbpfLogger<&'static dyn log::Log>;

/// The object that `cargo xtask build-ebpf` built.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("LIMITER_EBPF_OBJECT"));

/// Name of the program that decides.
const PROGRAM: &str = "limiter";

/// Name of the program that tells what time it is.
const CLOCK_PROBE: &str = "clock_probe";

/// The program, loaded once for each interface so that each counts apart at no cost.
pub(super) struct Programs {
    pub(super) interfaces: Vec<LoadedProgram>,
}

/// The program of one interface.
pub(super) struct LoadedProgram {
    pub(super) name: String,
    pub(super) index: u32,
    pub(super) slot: u32,
    ebpf: Ebpf,
}

impl Programs {
    pub(super) fn load(
        pins: &Pins,
        interfaces: &[(String, u32)],
        diagnostics: LevelFilter,
    ) -> Result<Self, KernelError> {
        if interfaces.len() > maps::MAX_INTERFACES as usize {
            return Err(KernelError::Policy(format!(
                "{} interfaces, at most {} are possible",
                interfaces.len(),
                maps::MAX_INTERFACES,
            )));
        }
        let slots = slots(pins, interfaces);
        let interfaces = interfaces
            .iter()
            .zip(slots)
            .map(|((name, index), slot)| {
                let ebpf = load(pins, slot, is_loopback(name), diagnostics)?;
                Ok(LoadedProgram { name: name.clone(), index: *index, slot, ebpf })
            })
            .collect::<Result<_, KernelError>>()?;
        Ok(Self { interfaces })
    }
}

impl LoadedProgram {
    /// The reader of the program's diagnostics.
    pub(super) fn logger(&mut self) -> Result<KernelLogger, KernelError> {
        EbpfLogger::init(&mut self.ebpf)
            .map_err(|error| KernelError::system("opening the kernel's diagnostics", &error))
    }

    pub(super) fn program(&mut self) -> Result<&mut Xdp, KernelError> {
        xdp(&mut self.ebpf, PROGRAM)
    }
}

/// Which counters are whose: an interface keeps those that its pinned link names.
fn slots(pins: &Pins, interfaces: &[(String, u32)]) -> Vec<u32> {
    let links = pins.links();
    let mut taken: Vec<u32> = Vec::new();
    let kept: Vec<Option<u32>> = interfaces
        .iter()
        .map(|(_, index)| {
            let link = links.iter().find(|(link, _)| link.index == *index)?.0;
            let fresh = link.slot < maps::MAX_INTERFACES && !taken.contains(&link.slot);
            fresh.then(|| {
                taken.push(link.slot);
                link.slot
            })
        })
        .collect();
    kept.into_iter()
        .map(|slot| {
            slot.unwrap_or_else(|| {
                let free =
                    (0..maps::MAX_INTERFACES).find(|slot| !taken.contains(slot)).unwrap_or(0);
                taken.push(free);
                free
            })
        })
        .collect()
}

/// Whether every source on the interface is an address of this host.
fn is_loopback(name: &str) -> bool {
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
    let paths: Vec<_> = VALUE_SIZES
        .iter()
        .map(|(name, ..)| *name)
        .chain([maps::EVENTS])
        .map(|name| (name, pins.path(name)))
        .collect();
    for (name, path) in &paths {
        loader.map_pin_path(name, path.as_path());
    }
    loader.load(OBJECT).map_err(|error| explain("loading the eBPF object", &error))
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
    programs: &Programs,
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
    let tick_offset_ns = match programs.interfaces.first() {
        Some(loaded) => tick_offset_ns(&loaded.ebpf, tick_ns)?,
        None => 0,
    };
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
