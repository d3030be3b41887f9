//! Where things are: the repository, the target directory, and what xtask itself keeps there.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// Paths of this checkout. All absolute.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    /// `CARGO_TARGET_DIR`, or `target` in the root.
    pub(crate) target: PathBuf,
}

impl Workspace {
    pub(crate) fn find() -> Result<Self> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest.parent().context("xtask is not inside a workspace")?.to_path_buf();
        let target = match env::var_os("CARGO_TARGET_DIR") {
            // A relative one is relative to where cargo was started.
            Some(target) => env::current_dir()?.join(target),
            None => root.join("target"),
        };
        Ok(Self { root, target })
    }

    /// The eBPF object that the `limiter` binary embeds (`LIMITER_EBPF_OBJECT` of its build).
    pub(crate) fn ebpf_object(&self) -> PathBuf {
        self.objects().join("limiter-ebpf.o")
    }

    /// Every linked eBPF object, as `NAME.o`.
    pub(crate) fn objects(&self) -> PathBuf {
        self.target.join("bpf")
    }

    /// What xtask remembers between runs; deleting it costs time, never correctness.
    pub(crate) fn state(&self) -> PathBuf {
        self.target.join("xtask")
    }

    /// `limiter` as `cargo build` leaves it.
    pub(crate) fn limiter(&self, release: bool) -> PathBuf {
        self.target.join(if release { "release" } else { "debug" }).join("limiter")
    }
}

/// Writes `bytes` unless the file already holds them, so that what depends on the file's time is
/// not rebuilt. Returns whether it wrote.
pub(crate) fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<bool> {
    match fs::read(path) {
        Ok(present) if present == bytes => return Ok(false),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(true)
}
