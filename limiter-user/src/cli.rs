//! The command line: arguments in, exit code out (0 done, 1 failed, 2 wrong usage or
//! configuration).
//!
//! `run` and `proxy` become the two processes; the rest asks a running agent over its control
//! socket and prints. Prints to standard output only through `output`.

mod agent;
mod argument;
mod bans;
pub mod check;
mod control;
mod doctor;
mod events;
pub mod init;
pub mod keys;
mod lists;
mod logger;
mod manual;
mod output;
pub mod run;
mod sources;
mod status;
mod top;
mod why;

use std::{fmt, io, process::ExitCode, sync::LazyLock};

use clap::{CommandFactory as _, Parser, Subcommand};

use self::run::RunArgs;
use crate::admin::{client::ClientError, view::ListKind};

/// Version and build id, as `--version` and the status show them.
pub fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let build = option_env!("LIMITER_BUILD_ID").unwrap_or("unknown");
        format!("{} (build {build})", env!("CARGO_PKG_VERSION"))
    });
    &VERSION
}

#[derive(Debug, Parser)]
#[command(
    name = "limiter",
    version = version(),
    about = "Protects a Linux host and the APIs on it, in the kernel and in front of the server",
    propagate_version = true,
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent (and the proxy it starts)
    Run(RunArgs),
    /// Read the configuration, print the plan and every risk
    Check(check::CheckArgs),
    /// Write a commented configuration
    Init(init::InitArgs),
    /// Make, list, revoke and rotate API keys
    Keys(keys::KeysArgs),
    /// Show processes, interfaces, listeners, losses and counters
    Status(status::StatusArgs),
    /// Watch sources, rates and verdicts
    Top(top::TopArgs),
    /// List the tracked sources
    Sources(sources::SourcesArgs),
    /// Show what happened lately, or follow what happens
    Events(events::EventsArgs),
    /// Ban an address or prefix
    Ban(bans::BanArgs),
    /// Lift bans
    Unban(bans::UnbanArgs),
    /// List the bans in force
    Bans(bans::BansArgs),
    /// Networks that may enter under `default = "deny"`: add, remove, list
    Allow(lists::ListsArgs),
    /// Networks that may not enter: add, remove, list
    Deny(lists::ListsArgs),
    /// Networks that are never banned, denied or limited: add, remove, list
    Trust(lists::ListsArgs),
    /// Say why a source is treated as it is
    Why(why::WhyArgs),
    /// Say what would happen to a packet or request, and by which rule
    Explain(why::ExplainArgs),
    /// Have the agent read its configuration again
    Reload(control::ReloadArgs),
    /// Take XDP off every interface; the agent goes on without it
    Detach(control::DetachArgs),
    /// Say what this kernel, its drivers and settings allow, and what is off because of it
    Doctor(doctor::DoctorArgs),
    /// Print completions for a shell
    Completions(manual::CompletionsArgs),
    /// Print the manual page
    Man,
    /// The unprivileged process that the agent starts
    #[command(hide = true)]
    Proxy,
}

impl Command {
    /// What the process says of itself.
    fn log_level(&self) -> log::LevelFilter {
        match self {
            Self::Run(RunArgs { kernel_log: Some(level), .. }) => *level,
            _ => log::LevelFilter::Warn,
        }
    }

    fn run(&self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Run(args) => run::run(args),
            Self::Check(args) => check::run(args),
            Self::Init(args) => init::run(args),
            Self::Keys(args) => keys::run(args, &|| agent::notify(args.config.as_deref())),
            Self::Status(args) => status::run(args),
            Self::Top(args) => top::run(args),
            Self::Sources(args) => sources::run(args),
            Self::Events(args) => events::run(args),
            Self::Ban(args) => bans::ban(args),
            Self::Unban(args) => bans::unban(args),
            Self::Bans(args) => bans::list(args),
            Self::Allow(args) => lists::run(ListKind::Allow, args),
            Self::Deny(args) => lists::run(ListKind::Deny, args),
            Self::Trust(args) => lists::run(ListKind::Trust, args),
            Self::Why(args) => why::why(args),
            Self::Explain(args) => why::explain(args),
            Self::Reload(args) => control::reload(args),
            Self::Detach(args) => control::detach(args),
            Self::Doctor(args) => doctor::run(args),
            Self::Completions(args) => manual::completions(args, Cli::command()),
            Self::Man => manual::man(Cli::command()),
            Self::Proxy => Ok(run::proxy()),
        }
    }
}

/// Wrong usage that the argument parser cannot see: exit code 2.
#[derive(Debug)]
pub struct UsageError(pub String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// Parses the process's arguments and does what they say.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output; whoever closed it does not want them.
            drop(error.print());
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    logger::start(cli.command.log_level());
    match cli.command.run() {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("limiter: {error:#}");
            ExitCode::from(exit_code(&error))
        }
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<UsageError>() {
        2
    } else if let Some(error) = error.downcast_ref::<ClientError>() {
        error.exit_code()
    } else {
        1
    }
}

/// The reader of our output (`head`, a pager) has seen enough. Other broken pipes are errors.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Output(error)) => error.kind() == io::ErrorKind::BrokenPipe,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_lines_of_the_manual_are_understood() {
        for line in [
            "run -c f.toml --interface eth0 --interface eth1 --listen 127.0.0.1:80 --upstream u",
            "run --preset private --allow-unauthenticated",
            "status --json --socket /run/x",
            "sources --json --sort dropped --limit 5 -c f",
            "events -f --json --kind ban* --kind detected --source 10.0.0.0/8",
            "events --since 10m",
            "events -f --since 2026-01-15T10:23:45Z",
            "top --once --json --sort dropped --limit 5",
            "completions bash",
            "man",
            "ban 203.0.113.7 --for 10m --scope http --reason TEXT --force",
            "ban 2001:db8::/48",
            "unban --all",
            "unban 203.0.113.7",
            "bans --json",
            "deny add 192.0.2.0/24 2001:db8::1 --runtime --force",
            "allow remove 10.0.0.0/8 -c f",
            "trust list --json",
            "why ::1",
            "reload",
            "reload --confirm 60s",
            "reload --confirmed",
            "doctor --json -c f",
            "detach",
            "explain --source 10.0.0.1 --proto tcp --port 22",
            "explain --source 10.0.0.1 --request GET -H a:b",
            "proxy",
            "check --strict -c f",
            "init --preset private",
            "keys new --name n --tier t --scope a --scope b --expires 90d",
            "keys rotate n --grace 1h",
        ] {
            let arguments = std::iter::once("limiter").chain(line.split(' '));
            if let Err(error) = Cli::try_parse_from(arguments) {
                panic!("{line}: {error}");
            }
        }
        for line in [
            "",
            "status x",
            "sources --sort size",
            "events --since yesterday",
            "top --json",
            "completions",
            "completions tcl",
            "ban",
            "ban host",
            "ban 10.0.0.1 --for 10",
            "ban 10.0.0.1 --scope all",
            "deny add",
            "deny 10.0.0.1",
            "trust add host",
            "unban",
            "unban 10.0.0.1 --all",
            "explain",
            "explain --source 10.0.0.1 --port 22",
            "reload --confirm 60",
            "reload --confirm 60s --confirmed",
        ] {
            let arguments = ["limiter"].into_iter().chain(line.split_whitespace());
            assert!(Cli::try_parse_from(arguments).is_err(), "{line}");
        }
    }

    #[test]
    fn commands_ask_an_agent() {
        let agent = crate::admin::server::fake::Running::start("cli");
        let socket = agent.socket.to_str().unwrap();
        for (line, expected) in [
            ("status", Ok(())),
            ("status --json", Ok(())),
            ("ban 203.0.113.7 --for 1h --force --reason x", Ok(())),
            ("bans", Ok(())),
            ("bans --json", Ok(())),
            ("deny add 203.0.113.7 203.0.113.8", Ok(())),
            ("deny remove 203.0.113.7", Ok(())),
            ("deny add 0.0.0.0/0", Err(1)),
            ("deny list", Ok(())),
            ("trust list --json", Ok(())),
            ("unban 203.0.113.0/24", Ok(())),
            ("unban --all", Ok(())),
            ("detach", Ok(())),
            ("events", Ok(())),
            ("events --json --source 10.0.0.1", Ok(())),
            ("events --kind nonsense", Err(2)),
            ("events --since 1h", Ok(())),
            ("top", Err(2)),
            ("top --once", Ok(())),
            ("top --once --json", Ok(())),
            ("reload", Err(2)),
            ("reload --confirm 2s", Err(2)),
            ("reload --confirmed", Err(1)),
            ("ban ::/0", Err(1)),
            ("why 10.0.0.1", Err(1)),
            ("sources", Err(1)),
            ("explain --source 10.0.0.1 --request GET", Err(2)),
        ] {
            let arguments = ["limiter"].into_iter().chain(line.split(' '));
            let cli = Cli::try_parse_from(arguments.chain(["--socket", socket])).unwrap();
            let result = cli.command.run();
            let code = result.map(drop).map_err(|error| exit_code(&error));
            assert_eq!(code, expected, "{line}");
        }
    }

    #[test]
    fn exit_codes_tell_whose_mistake_it_is() {
        let usage = anyhow::Error::from(UsageError("x".into()));
        assert_eq!(exit_code(&usage), 2);
        let invalid = crate::admin::view::Failure::invalid("x");
        assert_eq!(exit_code(&ClientError::Refused(invalid).into()), 2);
        let refused = crate::admin::view::Failure::refused("x");
        assert_eq!(exit_code(&ClientError::Refused(refused).into()), 1);
        let pipe = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(!is_broken_pipe(&pipe().into()));
        assert!(is_broken_pipe(&ClientError::Output(pipe()).into()));
        assert!(!is_broken_pipe(&usage));
    }
}
