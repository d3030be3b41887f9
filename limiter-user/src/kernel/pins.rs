//! What is pinned, where, and whether it can be believed.
//!
//! One directory per generation: layout version and table sizes are in its name, so that maps of
//! another shape are never opened as ours. Inside: maps by name, links as
//! `link-<slot>-<mode>-<ifindex>`. aya does not check a pinned map against its definition, so that
//! every map is compared here before it is used.

use std::{
    ffi::OsStr,
    fmt, fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use aya::maps::{HashMap, LpmTrie, Map, MapData, MapInfo, MapType, RingBuf};
use limiter_common::{
    ban::Ban,
    maps::{self, LAYOUT_VERSION, VALUE_SIZES},
    source::set_count,
};
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::{KernelError, attach::LinkName, bans::MAX_SPARED, load, plain::Plain};
use crate::{clock, policy::KernelPolicy};

/// Layouts whose exact bans are the same records under the same keys as this one's.
const SAME_BANS: [u32; 2] = [1, LAYOUT_VERSION];

/// What tells one map from another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shape {
    pub(super) kind: MapType,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
    pub(super) flags: u32,
}

impl Shape {
    fn of(info: &MapInfo) -> Result<Self, KernelError> {
        let kind = info.map_type();
        Ok(Self {
            kind: kind.map_err(|error| KernelError::system("asking for a map's type", &error))?,
            key_size: info.key_size(),
            value_size: info.value_size(),
            max_entries: info.max_entries(),
            flags: info.map_flags(),
        })
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, key_size, value_size, max_entries, flags } = self;
        write!(
            formatter,
            "{kind:?} of {max_entries} with keys of {key_size} and values of {value_size} bytes, \
             flags {flags:#x}"
        )
    }
}

/// The directory of this generation, and the one above it.
#[derive(Debug)]
pub(super) struct Pins {
    root: PathBuf,
    generation: PathBuf,
    sizes: Vec<(&'static str, u32)>,
}

impl Pins {
    /// Makes the directory on a BPF file system, mounting one where there is none.
    pub(super) fn open(root: &Path, policy: &KernelPolicy) -> Result<Self, KernelError> {
        let sets = set_count(policy.max_sources);
        let (bans, prefixes) = (policy.max_bans, policy.max_prefix_bans);
        let name = format!("v{LAYOUT_VERSION}-s{sets}-b{bans}-p{prefixes}");
        let generation = root.join(name);
        make_directory(&generation)?;
        let sizes = vec![
            (maps::KEYS, sets),
            (maps::SLOTS, sets),
            (maps::BANS, policy.max_bans),
            (maps::BAN_PREFIXES, policy.max_prefix_bans.saturating_add(MAX_SPARED)),
        ];
        let pins = Self { root: root.to_owned(), generation, sizes };
        pins.check()?;
        Ok(pins)
    }

    /// Sizes that the policy sets, by map.
    pub(super) fn sizes(&self) -> &[(&'static str, u32)] {
        &self.sizes
    }

    /// Where a map or link is pinned.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.generation.join(name)
    }

    /// Compares every map that is already pinned with what this version writes: type, flags and
    /// sizes.
    fn check(&self) -> Result<(), KernelError> {
        for (name, mut expected) in load::shapes()? {
            let path = self.path(&name);
            if !path.exists() {
                continue;
            }
            if let Some((_, size)) = self.sizes.iter().find(|(sized, _)| *sized == name) {
                expected.max_entries = *size;
            }
            let other = |found: &str| {
                KernelError::Pins(format!(
                    "{} is not what this version pins: {found}, expected {expected}. `limiter \
                     detach` removes it",
                    path.display(),
                ))
            };
            let info = MapInfo::from_pin(&path)
                .map_err(|error| other(&format!("it is no map that can be read ({error})")))?;
            let found = Shape::of(&info)?;
            if found != expected {
                return Err(other(&found.to_string()));
            }
        }
        Ok(())
    }

    /// Refuses where somebody removed what is pinned: a program loaded now would get maps of its
    /// own, which nobody fills.
    pub(super) fn check_all_there(&self) -> Result<(), KernelError> {
        let mut paths = load::pinned_maps().into_iter().map(|name| self.path(name));
        match paths.find(|path| !path.exists()) {
            None => Ok(()),
            Some(path) => Err(KernelError::Pins(format!(
                "{} is gone, somebody removed it: nothing can be attached until the agent is \
                 started anew",
                path.display()
            ))),
        }
    }

    /// Opens a checked map.
    pub(super) fn data(&self, name: &str) -> Result<MapData, KernelError> {
        let path = self.path(name);
        MapData::from_pin(&path).map_err(|error| {
            KernelError::system(format_args!("opening {}", path.display()), &error)
        })
    }

    /// Opens a checked map with its type.
    pub(super) fn map<M>(&self, name: &str) -> Result<M, KernelError>
    where
        M: TryFrom<Map, Error = aya::maps::MapError>,
    {
        let path = self.path(name);
        let context = format!("opening {}", path.display());
        Map::from_map_data(self.data(name)?)
            .and_then(M::try_from)
            .map_err(|error| KernelError::system(context, &error))
    }

    /// The ring buffer.
    pub(super) fn ring(&self) -> Result<RingBuf<MapData>, KernelError> {
        self.map(maps::EVENTS)
    }

    /// Links of this generation and then of others, each with where it is pinned.
    pub(super) fn links(&self) -> Vec<(LinkName, PathBuf)> {
        let mut links = links_in(&self.generation);
        for other in self.others() {
            links.extend(links_in(&other));
        }
        links
    }

    /// Copies bans of generations with other sizes, as far as there is room. Another layout is
    /// never read, but for the exact bans of the one whose records are the same.
    pub(super) fn copy_bans_of_other_generations(
        &self,
        bans: &mut HashMap<MapData, u64, Plain<Ban>>,
        prefixes: &mut LpmTrie<MapData, [u8; 16], Plain<Ban>>,
    ) -> Result<(), KernelError> {
        for other in self.others() {
            let layout = other.file_name().and_then(layout_of);
            let has = |name: &str| other.join(name).exists();
            if layout.is_some_and(|layout| SAME_BANS.contains(&layout))
                && has(maps::BANS)
                && let Some(earlier) = open_like(&other, maps::BANS)?
            {
                copy_exact(&earlier, bans);
            }
            if layout == Some(LAYOUT_VERSION)
                && has(maps::BAN_PREFIXES)
                && let Some(earlier) = open_like(&other, maps::BAN_PREFIXES)?
            {
                super::bans::copy_prefixes(&earlier, prefixes);
            }
        }
        Ok(())
    }

    /// Removes what earlier generations pinned, once nothing uses it.
    pub(super) fn remove_other_generations(&self) {
        for other in self.others() {
            remove_directory(&other);
        }
    }

    /// Removes every pin, links first: that is what takes XDP off.
    pub(super) fn remove_all(&self) {
        self.remove_other_generations();
        remove_directory(&self.generation);
        drop(fs::remove_dir(&self.root));
    }

    /// Removes every pin under a directory without opening any; how many links there were.
    pub(super) fn remove_everything(root: &Path) -> Result<usize, KernelError> {
        let entries = match fs::read_dir(root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => {
                return Err(KernelError::Host(format!("cannot read {}: {error}", root.display())));
            }
        };
        let mut links = 0;
        for entry in entries.flatten().filter(|entry| is_generation(&entry.file_name())) {
            links += links_in(&entry.path()).len();
            remove_directory(&entry.path());
        }
        drop(fs::remove_dir(root));
        Ok(links)
    }

    fn others(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(&self.root) else { return Vec::new() };
        entries
            .flatten()
            .filter(|entry| is_generation(&entry.file_name()))
            .map(|entry| entry.path())
            .filter(|path| *path != self.generation)
            .collect()
    }
}

/// `v1-...`, whatever the layout: what else lies there (`agent.pins` may be shared) is not ours.
fn is_generation(name: &OsStr) -> bool {
    layout_of(name).is_some()
}

fn layout_of(name: &OsStr) -> Option<u32> {
    let (layout, _) = name.to_str()?.strip_prefix('v')?.split_once('-')?;
    layout.parse().ok()
}

/// Opens a table of bans of another generation, unless its records have another shape: those are
/// left where they are, and said.
fn open_like<M>(directory: &Path, name: &str) -> Result<Option<M>, KernelError>
where
    M: TryFrom<Map, Error = aya::maps::MapError>,
{
    let path = directory.join(name);
    let context = format!("opening earlier bans at {}", path.display());
    let data = MapData::from_pin(&path).map_err(|error| KernelError::system(&context, &error))?;
    let info = data.info().map_err(|error| KernelError::system(&context, &error))?;
    let shape = (name, info.key_size(), info.value_size());
    if !VALUE_SIZES.contains(&shape) {
        log::error!("{} is of another shape and not read: {shape:?}", path.display());
        return Ok(None);
    }
    Map::from_map_data(data)
        .and_then(M::try_from)
        .map(Some)
        .map_err(|error| KernelError::system(&context, &error))
}

fn copy_exact(
    earlier: &HashMap<MapData, u64, Plain<Ban>>,
    bans: &mut HashMap<MapData, u64, Plain<Ban>>,
) {
    let now_ns = clock::monotonic_ns();
    for (key, ban) in earlier.iter().filter_map(Result::ok) {
        if ban.0.expires_ns <= now_ns {
            continue;
        }
        if let Err(error) = bans.insert(key, ban, 0) {
            // A smaller table: packets are filtered all the same.
            log::error!("bans of the earlier, larger table are left out: {error}");
            return;
        }
    }
}

fn links_in(directory: &Path) -> Vec<(LinkName, PathBuf)> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            Some((LinkName::parse(&entry.file_name().to_string_lossy())?, entry.path()))
        })
        .collect()
}

/// Links first. What cannot be removed stays, and the next start finds it.
fn remove_directory(directory: &Path) {
    for (_, path) in links_in(directory) {
        drop(fs::remove_file(path));
    }
    if let Ok(entries) = fs::read_dir(directory) {
        for entry in entries.flatten() {
            drop(fs::remove_file(entry.path()));
        }
    }
    drop(fs::remove_dir(directory));
}

/// Makes a directory and those above it, for root's eyes only.
pub(super) fn make_directory(path: &Path) -> Result<(), KernelError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| KernelError::Host(format!("cannot make {}: {error}", path.display())))
}

/// Mounts a BPF file system where none is: at `/sys/fs/bpf` for pins below it, else at the
/// directory itself.
pub(super) fn ensure_bpffs(root: &Path) -> Result<(), KernelError> {
    let standard = Path::new("/sys/fs/bpf");
    let existing = root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    if statfs(existing).is_ok_and(|info| info.filesystem_type() == BPF_FS_MAGIC) {
        return Ok(());
    }
    let target = if root.starts_with(standard) { standard } else { root };
    fs::create_dir_all(target)
        .map_err(|error| KernelError::Host(format!("cannot make {}: {error}", target.display())))?;
    mount(Some("bpf"), target, Some("bpf"), MsFlags::empty(), Some("mode=0700")).map_err(|error| {
        KernelError::Host(format!(
            "no BPF file system at {} and mounting one failed: {error} (needs CAP_SYS_ADMIN, or \
             `mount -t bpf bpf {}`)",
            target.display(),
            target.display(),
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_generations_are_ours() {
        for name in ["v1-s64-b10", "v0-x", "v4294967295-"] {
            assert!(is_generation(OsStr::new(name)), "{name}");
        }
        for name in ["cilium", "v", "v1", "vx-1", "tc-globals", "v-1"] {
            assert!(!is_generation(OsStr::new(name)), "{name}");
        }
    }
}
