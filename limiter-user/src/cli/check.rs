//! `limiter check`: reads the configuration and prints what it means, then what is risky in it.
//!
//! Touches nothing: no interface, no socket, no map. Secrets appear only as counts.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use crate::{
    config::{self, ConfigError, Loaded, Risk, Sources},
    policy::Policy,
};

mod plan;

/// The configuration cannot be used.
const INVALID: u8 = 2;
/// It can, and `--strict` was given and a risk was found.
const RISKY: u8 = 3;

/// Read the configuration; print what it means and every risk in it
#[derive(Clone, Debug, Default, clap::Args)]
pub struct CheckArgs {
    /// Configuration file [default: /etc/limiter/limiter.toml]
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Fill in what the file leaves out: public, private, internal or elizaos
    #[arg(long, value_name = "NAME")]
    pub preset: Option<String>,
    /// Network interface to protect
    #[arg(long, value_name = "IF")]
    pub interface: Vec<String>,
    /// Address to serve HTTP on
    #[arg(long, value_name = "ADDR")]
    pub listen: Vec<String>,
    /// Server that requests go to
    #[arg(long, value_name = "URL")]
    pub upstream: Option<String>,
    /// Serve more than loopback without authentication
    #[arg(long)]
    pub allow_unauthenticated: bool,
    /// Exit with 3 if anything is risky
    #[arg(long)]
    pub strict: bool,
}

/// Runs the command. Exit code 0, 2 if the configuration is invalid, 3 if risky and `--strict`.
pub fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let sources = Sources {
        file: args.config.clone(),
        preset: args.preset.clone(),
        interfaces: args.interface.clone(),
        listen: args.listen.clone(),
        upstream: args.upstream.clone(),
        allow_unauthenticated: args.allow_unauthenticated,
        environment: &config::process_environment,
    };
    let loaded = config::load(&sources);
    let code = report(&loaded, args.strict, &mut io::stdout().lock(), &mut io::stderr().lock())?;
    Ok(ExitCode::from(code))
}

/// Writes plan and risks to `out`, errors to `errors`; returns the exit code.
fn report(
    loaded: &Result<Loaded, ConfigError>,
    strict: bool,
    out: &mut dyn Write,
    errors: &mut dyn Write,
) -> io::Result<u8> {
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            writeln!(errors, "{error}")?;
            return Ok(INVALID);
        }
    };
    match &loaded.file {
        Some(file) => writeln!(out, "{}: valid\n", file.display())?,
        None => writeln!(out, "no configuration file: options and environment only\n")?,
    }
    write_plan(&loaded.policy, out)?;
    write_risks(&loaded.risks, out)?;
    Ok(if strict && !loaded.risks.is_empty() { RISKY } else { 0 })
}

/// What the policy does, for people.
pub fn write_plan(policy: &Policy, out: &mut dyn Write) -> io::Result<()> {
    plan::write(policy, out)
}

/// The risks, one a line.
pub fn write_risks(risks: &[Risk], out: &mut dyn Write) -> io::Result<()> {
    if risks.is_empty() {
        return writeln!(out, "risks: none found");
    }
    writeln!(out, "risks:")?;
    for risk in risks {
        writeln!(out, "  {}: {}", risk.key, risk.sentence)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str, strict: bool) -> (u8, String) {
        let path = std::env::temp_dir().join(format!(
            "limiter-check-{}-{}.toml",
            std::process::id(),
            text.len()
        ));
        std::fs::write(&path, text).unwrap();
        let environment = |_: &str| None;
        let sources = Sources { file: Some(path.clone()), ..Sources::new(&environment) };
        let (mut out, mut errors) = (Vec::new(), Vec::new());
        let code = report(&config::load(&sources), strict, &mut out, &mut errors).unwrap();
        std::fs::remove_file(path).unwrap();
        out.extend(errors);
        (code, String::from_utf8(out).unwrap())
    }

    #[test]
    fn exit_codes() {
        let quiet = "[kernel]\n";
        assert_eq!(code(quiet, true).0, 0, "{}", code(quiet, true).1);
        let risky = "[kernel]\ntrusted = [\"0.0.0.0/0\"]\n";
        assert_eq!(code(risky, false).0, 0);
        let (strict, text) = code(risky, true);
        assert_eq!(strict, RISKY);
        assert!(text.contains("kernel.trusted[0]: 0.0.0.0/0 trusts every address"), "{text}");
        let (invalid, text) = code("[kernel]\nattach = \"fast\"\n", false);
        assert_eq!(invalid, INVALID);
        assert!(text.contains(":2:10"), "{text}");
    }

    #[test]
    fn the_plan_names_everything() {
        let text = code(
            "preset = \"public\"\n[kernel]\ndeny = [\"203.0.113.0/24\"]\n[[http.upstream]]\n\
             name = \"api\"\nservers = [\"http://127.0.0.1:3000\"]\n",
            false,
        )
        .1;
        for part in [
            "127.0.0.1:8080",
            "api = http://127.0.0.1:3000",
            "public, sliding_window 100/15m",
            "203.0.113.0/24",
            "20000/s burst 40000",
            "bytes 100MB/s burst 100MB",
            "concurrent connections 1000",
            "syn cookies while a listener is flooded",
            "invalid_credential 5",
            "/var/log/limiter/security.log",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn the_plan_names_the_burst_that_is_in_force() {
        let limit = |more: &str| {
            code(
                &format!(
                    "preset = \"public\"\n[[http.upstream]]\nname = \"api\"\n\
                     servers = [\"http://127.0.0.1:3000\"]\n[[http.route]]\nauth = \"none\"\n\
                     limits = [\"queue\"]\n[limits.queue]\nalgorithm = \"leaky_bucket\"\n\
                     rate = \"10/s\"\n{more}"
                ),
                false,
            )
            .1
        };
        for (more, burst) in [
            ("", "10/s burst 10 by"),
            ("max_delay = \"10s\"", "10/s burst 10 waiting up to 10s"),
            ("max_delay = \"450ms\"", "10/s burst 5 (of 10, for max_delay) waiting up to 450ms"),
        ] {
            let text = limit(more);
            assert!(text.contains(burst), "{burst} in\n{text}");
        }
    }

    #[test]
    fn the_plan_names_services() {
        let text = code(
            "[kernel]\ntrusted = [{ cidr = \"192.0.2.10\", interface = \"eth1\" }]\n\
             forwarded = true\n[kernel.total_limits]\nmode = \"monitor\"\nbytes = \"1GiB/s\"\n\
             udp_packets = \"9/s\"\n\
             [[kernel.service]]\nname = \"dns\"\nports = [\"udp/53\", \"tcp/8000-8010\"]\n\
             allow = [\"10.0.0.0/8\"]\nlimits = { packets = \"500/s\" }\n",
            false,
        )
        .1;
        for part in [
            "  trusted          192.0.2.10/32 on eth1\n",
            "  per source       unlimited\n",
            "  all together     UDP packets 9/s burst 9 (monitor: counted, not enforced)\n",
            "                   bytes 1GiB/s burst 1GiB\n",
            "  service          dns = udp/53, tcp/8000-8010\n",
            "    allow          10.0.0.0/8\n",
            "    per source     packets 500/s burst 500\n",
            "    all together   unlimited\n",
            "forwarded traffic limited too",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }
}
