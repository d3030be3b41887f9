//! `limiter keys`: makes, lists, revokes and rotates API keys.
//!
//! A new key goes to standard output alone and once; everything else is said on standard error.
//! What is stored cannot be turned back into a key.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};

use crate::{
    clock,
    config::{self, Sources},
    keys::{
        ApiKey, DEFAULT_FILE, check_label, check_name, date,
        file::{KeysFile, StoredKey},
    },
};

/// So many keys of one principal may be good beside its last two.
const MAX_EARLIER: usize = 8;

/// What became of telling a running agent to read the keys again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AgentNotice {
    /// It did: the change is in force.
    Reloaded,
    /// None is running; it will read the file when it starts.
    NotRunning,
}

/// Tells a running agent (`POST /v1/reload` on its control socket).
pub type Notify<'a> = &'a dyn Fn() -> anyhow::Result<AgentNotice>;

/// Make, list, revoke and rotate API keys
#[derive(Clone, Debug, clap::Args)]
pub struct KeysArgs {
    /// Configuration file, whose keys file is meant [default: /etc/limiter/limiter.toml]
    #[arg(short, long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// The keys file itself
    #[arg(long, value_name = "FILE", global = true)]
    pub keys_file: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: KeysCommand,
}

/// What to do with the keys.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum KeysCommand {
    /// Make a key and print it, this once
    New {
        /// Who will use it: the principal of limits, events and the upstream
        #[arg(long, value_parser = parse_name)]
        name: String,
        /// Tier
        #[arg(long, value_parser = parse_label)]
        tier: Option<String>,
        /// Scope; may be repeated
        #[arg(long, value_parser = parse_label)]
        scope: Vec<String>,
        /// When it ends, from now: e.g. 90d
        #[arg(long, value_parser = parse_lifetime)]
        expires: Option<Duration>,
    },
    /// Show names, rights and dates
    List,
    /// End a key now
    Revoke {
        /// Its name
        name: String,
    },
    /// Make a new key in place of an old one, which stays valid for a while
    Rotate {
        /// Its name
        name: String,
        /// How long the old key stays valid
        #[arg(long, value_parser = parse_duration, default_value = "24h")]
        grace: Duration,
    },
}

fn parse_name(text: &str) -> Result<String, String> {
    check_name(text).map(|()| text.to_owned())
}

fn parse_label(text: &str) -> Result<String, String> {
    check_label(text).map(|()| text.to_owned())
}

/// Keys end at whole seconds.
fn parse_lifetime(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        length if length.as_secs() == 0 => Err("a key lives for a second or longer".to_owned()),
        length => Ok(length),
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    config::parse_duration(text)
}

/// Runs the command; `notify` is called after the file has changed.
pub fn run(args: &KeysArgs, notify: Notify<'_>) -> anyhow::Result<ExitCode> {
    let (path, header) = match keys_path(args) {
        Ok(found) => found,
        Err(error) => {
            writeln!(io::stderr(), "{error:#}")?;
            return Ok(ExitCode::from(2));
        }
    };
    let now_seconds = clock::unix_ns() / 1_000_000_000;
    let mut desk = Desk {
        path: &path,
        header: &header,
        now_seconds,
        notify,
        out: &mut io::stdout().lock(),
        notes: &mut io::stderr().lock(),
    };
    desk.serve(&args.command)?;
    Ok(ExitCode::SUCCESS)
}

/// `--keys-file`, else the only one that the configuration names, else, where that names no scheme,
/// the default; and the header for its keys.
fn keys_path(args: &KeysArgs) -> anyhow::Result<(PathBuf, String)> {
    const HEADER: &str = "X-API-Key";
    if let Some(path) = &args.keys_file {
        return Ok((path.clone(), HEADER.to_owned()));
    }
    let sources =
        Sources { file: args.config.clone(), ..Sources::new(&config::process_environment) };
    let Some(mut files) = config::keys_files(&sources)? else {
        return Ok((DEFAULT_FILE.into(), HEADER.to_owned()));
    };
    files.sort();
    files.dedup_by(|one, other| one.path == other.path);
    let several = "error: the configuration names several keys files: use --keys-file";
    ensure!(files.len() <= 1, several);
    let none = "error: no [auth.NAME] of the configuration has a `keys_file`: nobody would read \
                the keys";
    let place = files.pop().context(none)?;
    Ok((place.path, place.header.unwrap_or_else(|| HEADER.to_owned())))
}

/// One command at one keys file.
struct Desk<'a> {
    path: &'a Path,
    /// In which its keys are sent.
    header: &'a str,
    now_seconds: u64,
    notify: Notify<'a>,
    out: &'a mut dyn Write,
    notes: &'a mut dyn Write,
}

impl Desk<'_> {
    fn serve(&mut self, command: &KeysCommand) -> anyhow::Result<()> {
        match command {
            KeysCommand::New { name, tier, scope, expires } => {
                self.make(name, tier.as_deref(), scope, *expires)
            }
            KeysCommand::List => self.list(),
            KeysCommand::Revoke { name } => self.revoke(name),
            KeysCommand::Rotate { name, grace } => self.rotate(name, *grace),
        }
    }

    fn make(
        &mut self,
        name: &str,
        tier: Option<&str>,
        scopes: &[String],
        expires: Option<Duration>,
    ) -> anyhow::Result<()> {
        let key = ApiKey::generate()?;
        let stored = StoredKey {
            name: name.to_owned(),
            digest: key.digest(),
            tier: tier.map(str::to_owned),
            scopes: scopes.to_vec(),
            created: date::from_unix(self.now_seconds),
            expires: expires.map(|length| date::from_unix(self.now_seconds + length.as_secs())),
            replaced_digest: None,
            replaced_until: None,
            earlier: Vec::new(),
        };
        KeysFile::update(self.path, |file| {
            if file.keys.iter().any(|other| other.name == name) {
                bail!("there is a key named {name:?} already: `limiter keys rotate` replaces it");
            }
            file.keys.push(stored);
            Ok(())
        })?;
        writeln!(self.out, "{}", key.reveal())?;
        self.out.flush()?;
        let header = self.header;
        writeln!(self.notes, "the key of {name:?}, shown this once; send it as {header} or")?;
        writeln!(
            self.notes,
            "`Authorization: Bearer`. Only its digest is in {}.",
            self.path.display()
        )?;
        self.tell()
    }

    fn rotate(&mut self, name: &str, grace: Duration) -> anyhow::Result<()> {
        let key = ApiKey::generate()?;
        let (now, digest) = (self.now_seconds, key.digest());
        let until = date::from_unix(now + grace.as_secs());
        KeysFile::update(self.path, |file| {
            let stored = find(file, name)?;
            if stored.expires.as_ref().and_then(date::to_unix).is_some_and(|end| end <= now) {
                bail!("the key of {name:?} has expired: revoke it and make a new one");
            }
            stored.replace(digest, now, (!grace.is_zero()).then_some(until));
            ensure!(
                stored.earlier.len() <= MAX_EARLIER,
                "{MAX_EARLIER} earlier keys of {name:?} are still in their grace: `--grace 0s` ends them"
            );
            Ok(())
        })?;
        writeln!(self.out, "{}", key.reveal())?;
        self.out.flush()?;
        if grace.is_zero() {
            writeln!(
                self.notes,
                "the new key of {name:?}, shown this once; the old one has ended"
            )?;
        } else {
            writeln!(
                self.notes,
                "the new key of {name:?}, shown this once; the old one ends {until}"
            )?;
        }
        self.tell()
    }

    fn revoke(&mut self, name: &str) -> anyhow::Result<()> {
        KeysFile::update(self.path, |file| {
            find(file, name)?;
            file.keys.retain(|key| key.name != name);
            Ok(())
        })?;
        writeln!(self.notes, "revoked {name:?}")?;
        self.tell()
    }

    fn list(&mut self) -> anyhow::Result<()> {
        let Some(file) = KeysFile::read(self.path)? else {
            writeln!(self.notes, "there is no {} yet", self.path.display())?;
            return Ok(());
        };
        let width = file.keys.iter().map(|key| key.name.len()).max().unwrap_or(0).max(4);
        writeln!(
            self.out,
            "{:<width$}  {:<12}  {:<20}  {:<20}  SCOPES",
            "NAME", "TIER", "CREATED", "EXPIRES"
        )?;
        for key in &file.keys {
            let end = key.expires.as_ref();
            let ended = end.and_then(date::to_unix).is_some_and(|end| end <= self.now_seconds);
            let expires = end.map_or_else(|| "never".to_owned(), ToString::to_string);
            write!(
                self.out,
                "{:<width$}  {:<12}  {:<20}  {expires:<20}  {}",
                key.name,
                key.tier.as_deref().unwrap_or("-"),
                key.created.to_string(),
                if key.scopes.is_empty() { "-".to_owned() } else { key.scopes.join(",") },
            )?;
            if ended {
                write!(self.out, "  (expired)")?;
            }
            let replaced = key.replaced_until.as_ref();
            let overlaps = |until: &&toml::value::Datetime| {
                date::to_unix(until).is_some_and(|until| until > self.now_seconds)
            };
            if let Some(until) = replaced.filter(overlaps) {
                write!(self.out, "  (the key it replaced ends {until})")?;
            }
            let earlier = key.earlier.iter().map(|earlier| &earlier.until).filter(overlaps);
            for until in earlier {
                write!(self.out, "  (one before it ends {until})")?;
            }
            writeln!(self.out)?;
        }
        Ok(())
    }

    fn tell(&mut self) -> anyhow::Result<()> {
        match (self.notify)()
            .context("the file is changed, but the running agent did not take it")?
        {
            AgentNotice::Reloaded => writeln!(self.notes, "the running agent knows it")?,
            AgentNotice::NotRunning => {
                writeln!(self.notes, "no agent is running; it will know when it starts")?;
            }
        }
        Ok(())
    }
}

fn find<'a>(file: &'a mut KeysFile, name: &str) -> anyhow::Result<&'a mut StoredKey> {
    let names = match file.keys.iter().map(|key| key.name.as_str()).collect::<Vec<_>>() {
        names if names.is_empty() => "none".to_owned(),
        names => names.join(", "),
    };
    let found = file.keys.iter_mut().find(|key| key.name == name);
    found.with_context(|| format!("there is no key named {name:?} (there are: {names})"))
}

#[cfg(test)]
mod tests;
