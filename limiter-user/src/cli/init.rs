//! `limiter init`: a commented configuration to begin with.
//!
//! Never overwrites a file unless told to; what it writes passes `limiter check`.

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};

use crate::config::PRESETS;

/// Write a commented configuration to begin with
#[derive(Clone, Debug, clap::Args)]
pub struct InitArgs {
    /// What kind of API: public, private, internal or elizaos
    #[arg(long, value_name = "NAME", default_value = "private")]
    pub preset: String,
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Replace the file if it exists
    #[arg(long, requires = "output")]
    pub force: bool,
}

/// Runs the command. Exit code 0, 2 for an unknown preset.
pub fn run(args: &InitArgs) -> anyhow::Result<ExitCode> {
    let Some(text) = configuration(&args.preset) else {
        let known = PRESETS.join(", ");
        writeln!(
            io::stderr(),
            "error: --preset: {:?} is not a preset (there are: {known})",
            args.preset
        )?;
        return Ok(ExitCode::from(2));
    };
    match &args.output {
        None => io::stdout().write_all(text.as_bytes())?,
        Some(path) => {
            write_file(path, &text, args.force)?;
            let shown = path.display();
            writeln!(io::stderr(), "wrote {shown}; next: limiter check -c {shown}")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The commented configuration of a preset.
pub fn configuration(preset: &str) -> Option<String> {
    let requests = include_str!("init/requests.toml");
    let (head, requests) = match preset {
        "public" => (include_str!("init/public.toml"), requests),
        "private" => (include_str!("init/private.toml"), requests),
        "internal" => (include_str!("init/internal.toml"), requests),
        "elizaos" => {
            (include_str!("init/elizaos.toml"), include_str!("init/elizaos_requests.toml"))
        }
        _ => return None,
    };
    let packets = include_str!("init/packets.toml");
    Some(format!("{head}{packets}{requests}{}", include_str!("init/evidence.toml")))
}

fn write_file(path: &Path, text: &str, force: bool) -> anyhow::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o640);
    if force {
        options.create(true).truncate(true);
    } else {
        options.create_new(true);
    }
    let mut file = match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            bail!("{} exists; --force replaces it", path.display())
        }
        opened => opened.with_context(|| format!("cannot write {}", path.display()))?,
    };
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Sources};

    #[test]
    fn what_is_written_passes_the_check_and_is_never_overwritten() {
        for preset in PRESETS {
            let path = std::env::temp_dir()
                .join(format!("limiter-init-{preset}-{}.toml", std::process::id()));
            let text = configuration(preset).unwrap();
            write_file(&path, &text, false).unwrap();
            let environment = |_: &str| None;
            let sources = Sources { file: Some(path.clone()), ..Sources::new(&environment) };
            let loaded = config::load(&sources).unwrap_or_else(|error| panic!("{preset}: {error}"));
            assert!(loaded.policy.http.is_some() && loaded.policy.kernel.is_some());
            let refused = write_file(&path, "", false).unwrap_err();
            assert!(refused.to_string().contains("--force"));
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
            write_file(&path, "", true).unwrap();
            std::fs::remove_file(path).unwrap();
        }
        assert!(configuration("publik").is_none());
    }

    #[test]
    fn every_commented_line_can_be_used() {
        for preset in PRESETS {
            let text = configuration(preset).unwrap();
            let used: String = text
                .lines()
                .map(|line| line.strip_prefix("#: ").unwrap_or(line).to_owned() + "\n")
                .collect();
            assert_ne!(used, text);
            let path = std::env::temp_dir()
                .join(format!("limiter-init-all-{preset}-{}.toml", std::process::id()));
            std::fs::write(&path, used).unwrap();
            let environment = |_: &str| None;
            let sources = Sources { file: Some(path.clone()), ..Sources::new(&environment) };
            let loaded = config::load(&sources);
            std::fs::remove_file(path).unwrap();
            if let Err(error) = loaded {
                panic!("{preset}: {error}");
            }
        }
    }
}
