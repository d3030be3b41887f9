//! Finds the eBPF object that `cargo xtask build-ebpf` built and derives the build id.

use std::{
    env, fs,
    hash::{DefaultHasher, Hasher},
    path::{Path, PathBuf},
};

fn main() {
    println!("cargo::rerun-if-env-changed=LIMITER_EBPF_OBJECT");
    println!("cargo::rerun-if-changed=src");
    let object = object_path();
    println!("cargo::rerun-if-changed={}", object.display());
    let Ok(bytes) = fs::read(&object) else {
        println!(
            "cargo::error=the eBPF object {} is missing: build it with `cargo xtask build-ebpf`",
            object.display(),
        );
        return;
    };
    // Its keys are constant: the same input has the same id everywhere.
    let mut hasher = DefaultHasher::new();
    hasher.write(&bytes);
    hash_sources(Path::new("src"), &mut hasher);
    println!("cargo::rustc-env=LIMITER_EBPF_OBJECT={}", object.display());
    println!("cargo::rustc-env=LIMITER_BUILD_ID={:016x}", hasher.finish());
}

/// `target/bpf/limiter-ebpf.o` of the workspace, unless the environment names another.
fn object_path() -> PathBuf {
    if let Some(path) = env::var_os("LIMITER_EBPF_OBJECT") {
        return path.into();
    }
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let target = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| manifest.join("..").join("target"));
    target.join("bpf").join("limiter-ebpf.o")
}

fn hash_sources(directory: &Path, hasher: &mut DefaultHasher) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            hash_sources(&path, hasher);
        } else if let Ok(bytes) = fs::read(&path) {
            hasher.write(path.to_string_lossy().as_bytes());
            hasher.write(&bytes);
        }
    }
}
