//! Whole documents: what they become, and the error text of those that cannot be used.

mod defaults;
mod documented;
mod elizaos;
mod listeners;
mod presets;
mod refused;
mod samples;
mod zero;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use super::{ConfigError, Loaded, Sources, load};

/// A directory with a configuration of its own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("limiter-config-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Loads `text` from a file, with these environment variables.
fn load_with(text: &str, variables: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    let scratch = Scratch::new();
    load_in(&scratch.0, text, variables)
}

fn load_in(
    directory: &Path,
    text: &str,
    variables: &[(&str, &str)],
) -> Result<Loaded, ConfigError> {
    let path = directory.join("limiter.toml");
    fs::write(&path, text).unwrap();
    let environment = lookup(variables);
    load(&Sources { file: Some(path), ..Sources::new(&environment) })
}

fn lookup(variables: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
    |name: &str| {
        variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    }
}

fn accepted(text: &str) -> Loaded {
    load_with(text, &[]).unwrap_or_else(|error| panic!("{error}\nin\n{text}"))
}

fn refused(text: &str) -> String {
    match load_with(text, &[]) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(error) => error.to_string(),
    }
}

/// An upstream and a route, to which a test adds what it is about.
const API: &str = "[[http.upstream]]\nname = \"api\"\nservers = [\"http://127.0.0.1:3000\"]\n\
                   [[http.route]]\nauth = \"none\"\n";
