//! Commands without an agent: wrong usage, files, and saying that nobody answers.

use std::{fs, process::Command, time::Duration};

use limiter_tests::{
    process::{Finished, binary, finish},
    scratch::Scratch,
};

/// Runs `limiter` with an empty environment.
fn limiter(scratch: &Scratch, line: &str) -> Finished {
    let mut command = Command::new(binary());
    command.args(line.split_whitespace()).current_dir(scratch.path()).env_clear();
    command.env("LIMITER_CONFIG", "");
    finish(&mut command, scratch, Duration::from_secs(20))
}

#[test]
fn version_and_help_go_to_stdout() {
    let scratch = Scratch::new();
    let version = limiter(&scratch, "--version").succeeded();
    assert!(version.stdout.starts_with("limiter 0."), "{version:?}");
    assert!(version.stdout.contains("(build "), "{version:?}");
    let help = limiter(&scratch, "--help").succeeded();
    for command in
        "run check init keys status top sources events ban unban bans why explain reload detach \
         completions man doctor"
            .split(' ')
    {
        assert!(help.stdout.contains(&format!("\n  {command} ")), "{command}: {help:?}");
        let own = limiter(&scratch, &format!("{command} --help")).succeeded();
        assert!(own.stdout.contains("Usage: limiter "), "{own:?}");
    }
    assert!(!help.stdout.contains("proxy  "), "the agent's own business");
}

#[test]
fn wrong_usage_ends_with_2_and_says_what_is_wrong() {
    let scratch = Scratch::new();
    for line in [
        "",
        "nonsense",
        "status extra",
        "status --nonsense",
        "ban",
        "ban nowhere",
        "ban 10.0.0.0/33",
        "ban 10.0.0.1 --for 10",
        "ban 10.0.0.1 --scope everywhere",
        "unban",
        "unban 10.0.0.1 --all",
        "why",
        "why 10.0.0.0/8",
        "sources --sort size",
        "sources --limit many",
        "events --source x",
        "events --since yesterday",
        "top",
        "top --json",
        "completions tcl",
        "explain",
        "explain --source 10.0.0.1 --proto sctp",
        "keys",
        "keys new",
        "keys new --name é",
        "keys new --name a --tier gold!",
        "keys new --name a --scope a,b",
        "keys new --name a --expires 0s",
        "keys rotate x --grace soon",
        "init --preset nonsense",
        "run -c missing.toml",
        "check -c missing.toml",
        "status -c missing.toml",
    ] {
        let finished = limiter(&scratch, line).ended_with(2);
        assert!(finished.stdout.is_empty(), "{line}: {finished:?}");
        assert!(!finished.stderr.is_empty(), "{line}");
        assert!(!finished.stderr.contains("panicked"), "{line}: {finished:?}");
    }
}

#[test]
fn asking_without_an_agent_ends_with_1_and_names_the_socket() {
    let scratch = Scratch::new();
    for command in [
        "status",
        "status --json",
        "sources",
        "sources --json",
        "bans",
        "bans --json",
        "ban 203.0.113.7",
        "unban 203.0.113.7",
        "unban --all",
        "why 203.0.113.7",
        "why 203.0.113.7 --json",
        "explain --source 203.0.113.7",
        "events",
        "events -f --json",
        "events --since 1h",
        "top --once",
        "reload",
        "detach",
    ] {
        let finished = limiter(&scratch, &format!("{command} --socket gone.sock")).ended_with(1);
        assert!(finished.stdout.is_empty(), "{command}: {finished:?}");
        assert!(
            finished.stderr.contains("no agent answers on gone.sock: "),
            "{command}: {finished:?}"
        );
        assert!(finished.stderr.contains("start one with `limiter run`"), "{command}");
    }
    // By the configuration's runtime directory.
    scratch.write("limiter.toml", "[agent]\nruntime = \"run\"\npins = \"pins\"\n");
    let finished = limiter(&scratch, "status -c limiter.toml").ended_with(1);
    let socket = scratch.path().join("run/control.sock");
    assert!(
        finished.stderr.contains(&format!("no agent answers on {}", socket.display())),
        "{finished:?}"
    );
    let finished = limiter(&scratch, "detach -c limiter.toml").succeeded();
    assert!(finished.stdout.starts_with("no agent runs; links removed from "), "{finished:?}");
}

#[test]
fn init_writes_what_check_accepts_and_never_over_a_file() {
    let scratch = Scratch::new();
    for preset in ["public", "private", "internal"] {
        let shown = limiter(&scratch, &format!("init --preset {preset}")).succeeded();
        assert!(shown.stdout.contains(&format!("preset = \"{preset}\"")), "{shown:?}");
        let name = format!("{preset}.toml");
        limiter(&scratch, &format!("init --preset {preset} -o {name}")).succeeded();
        assert_eq!(fs::read_to_string(scratch.path().join(&name)).unwrap(), shown.stdout);
        let checked = limiter(&scratch, &format!("check -c {name}")).succeeded();
        assert!(!checked.stdout.is_empty());
        let again = limiter(&scratch, &format!("init --preset {preset} -o {name}"));
        assert_ne!(again.code, Some(0), "{again:?}");
        limiter(&scratch, &format!("init --preset {preset} -o {name} --force")).succeeded();
    }
}

#[test]
fn check_shows_every_error_with_its_place() {
    let scratch = Scratch::new();
    scratch.write(
        "limiter.toml",
        "[kernel]\ninterfaces = [\"lo\"]\ndefault = \"refuse\"\nsyn_cookies = \"maybe\"\nburst = 1\n",
    );
    let finished = limiter(&scratch, "check -c limiter.toml").ended_with(2);
    let unknown = &finished.stderr;
    assert!(unknown.contains("limiter.toml:5"), "{finished:?}");
    scratch.write(
        "limiter.toml",
        "[kernel]\ninterfaces = [\"lo\"]\ndefault = \"refuse\"\nfailsafe_ports = [\"udp/53\"]\n",
    );
    let finished = limiter(&scratch, "check -c limiter.toml").ended_with(2);
    for part in [
        "kernel.default: \"refuse\" is not one of \"allow\", \"deny\"",
        "limiter.toml:3:11",
        "kernel.failsafe_ports[0]: \"udp/53\" is not supported by this version",
        "limiter.toml:4:19",
    ] {
        assert!(finished.stderr.contains(part), "{part}: {finished:?}");
    }
    // Risks are no errors, unless asked for.
    scratch.write("limiter.toml", "[kernel]\ninterfaces = [\"lo\"]\nfailsafe_ports = []\n");
    let finished = limiter(&scratch, "check -c limiter.toml").succeeded();
    assert!((finished.stdout.clone() + &finished.stderr).contains("lock you out"), "{finished:?}");
    limiter(&scratch, "check -c limiter.toml --strict").ended_with(3);
    // A secret in the file is not shown.
    scratch.write("limiter.toml", "[auth.keys]\nkind = \"api_key\"\ntoken = \"hunter2hunter2\"\n");
    let finished = limiter(&scratch, "check -c limiter.toml").ended_with(2);
    assert!(!format!("{finished:?}").contains("hunter2"), "{finished:?}");
}

#[test]
fn keys_live_in_their_file() {
    let scratch = Scratch::new();
    let keys = |line: &str| limiter(&scratch, &format!("keys {line} --keys-file keys.toml"));
    let made = keys("new --name ci --tier gold --scope read --expires 90d").succeeded();
    let key = made.stdout.trim();
    assert!(key.starts_with("lk_") && key.len() == 52 && made.stdout.lines().count() == 1);
    let path = scratch.path().join("keys.toml");
    let bits = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&path).unwrap()) & 0o777;
    assert_eq!(bits, 0o600);
    let listed = keys("list").succeeded();
    for part in ["ci", "gold", "read"] {
        assert!(listed.stdout.contains(part), "{part}: {listed:?}");
    }
    assert_ne!(keys("new --name ci").code, Some(0), "the name is taken");
    assert_ne!(keys("revoke nobody").code, Some(0));
    assert_ne!(keys("rotate nobody").code, Some(0));
    let rotated = keys("rotate ci --grace 1h").succeeded();
    assert_ne!(rotated.stdout.trim(), key);
    keys("revoke ci").succeeded();
    let stored = fs::read_to_string(&path).unwrap();
    assert!(!stored.contains(key) && !stored.contains(rotated.stdout.trim()));
    let nobody = keys("revoke ci").ended_with(1);
    assert!(nobody.stderr.contains("(there are: none)"), "{nobody:?}");
    // A key is made where somebody reads it, and the header is the one that is asked for.
    let scheme = "[auth.a]\nkind = \"api_key\"\nheader = \"X-Token\"\n";
    scratch.write("limiter.toml", format!("{scheme}keys_file = \"other.toml\"\n"));
    let made = limiter(&scratch, "keys new --name a -c limiter.toml").succeeded();
    assert!(
        made.stderr.contains("send it as X-Token") && scratch.path().join("other.toml").exists()
    );
    scratch.write("limiter.toml", format!("{scheme}token = {{ env = \"T\" }}\n"));
    let refused = limiter(&scratch, "keys new --name a -c limiter.toml").ended_with(2);
    assert!(refused.stderr.contains("nobody would read the keys"), "{refused:?}");
}

#[test]
fn completions_and_the_manual_name_every_command() {
    let scratch = Scratch::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = limiter(&scratch, &format!("completions {shell}")).succeeded().stdout;
        for word in ["sources", "failsafe", "unban", "--since"] {
            let is_there = script.contains(word) || script.contains(word.trim_start_matches('-'));
            assert_eq!(is_there, word != "failsafe", "{shell}: {word}");
        }
        assert!(!script.contains("limiter__proxy"), "{shell}: the agent's own business");
    }
    let page = limiter(&scratch, "man").succeeded().stdout;
    for part in [".TH limiter 8", "LIMITER TOP", "LIMITER EVENTS", "EXIT STATUS", "\\-\\-since"] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("LIMITER PROXY"));
}
