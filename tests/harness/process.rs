//! Running a program as the harness runs `limiter`, with a stand-in: a shell script.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    process::Command,
    time::Duration,
};

use limiter_tests::{
    netns::Namespace,
    process::{Limiter, finish},
    scratch::Scratch,
};
use nix::sys::signal::Signal;

/// A limiter whose program is this shell script. `LIMITER_BINARY` need not exist.
fn stand_in(namespace: &Namespace, script: &str) -> Limiter {
    let mut limiter =
        Limiter::prepare(namespace, "preset = \"public\"\n[kernel]\nmode = \"enforce\"\n");
    let text = limiter.scratch().write("stand-in.sh", format!("#!/bin/sh\n{script}\n"));
    let path = limiter.directory().join("stand-in");
    // Copied by another process: a test that forks while this one has the file open for writing
    // would make it "text file busy".
    let copied = Command::new("install").args(["-m", "755"]).args([&text, &path]).status();
    assert!(copied.unwrap().success());
    limiter.set_program(path);
    limiter
}

#[test]
fn the_agent_section_goes_between_top_level_keys_and_sections() {
    let namespace = Namespace::new("config");
    let limiter = stand_in(&namespace, "exit 0");
    let text = fs::read_to_string(limiter.configuration()).unwrap();
    let place = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part} in {text}"));
    assert!(place("preset = ") < place("[agent]"));
    assert!(place("[agent]") < place("[kernel]"));
    assert!(text.contains(limiter.pins().to_str().unwrap()));
    limiter.configure("[kernel]\n");
    assert!(fs::read_to_string(limiter.configuration()).unwrap().ends_with("[kernel]\n"));
}

#[test]
fn it_runs_inside_with_arguments_environment_and_signals() {
    let namespace = Namespace::new("process");
    let script = "trap 'echo hup $VARIABLE >&2' HUP\ntrap 'exit 7' TERM\n\
                  echo \"args $* in $(readlink /proc/self/ns/net)\" >&2\n\
                  while :; do sleep 0.01; done";
    let mut limiter = stand_in(&namespace, script);
    limiter.argument("--extra").environment("VARIABLE", "value");
    limiter.launch();
    let line = limiter.wait_for_line(Duration::from_secs(5), "args run -c ");
    let network = namespace.run(|| fs::read_link("/proc/thread-self/ns/net").unwrap());
    assert!(line.contains("--extra in "), "{line}");
    assert!(line.contains(network.to_str().unwrap()), "{line}");
    assert!(namespace.processes().contains(&limiter.agent_pid()));
    limiter.signal(Signal::SIGHUP);
    limiter.wait_for_line(Duration::from_secs(5), "hup value");
    assert!(!limiter.is_ready());
    assert_eq!(limiter.terminate(Duration::from_secs(5)).code(), Some(7));
    assert!(!limiter.is_running());
    limiter.launch();
    limiter.kill_agent();
}

#[test]
fn a_start_that_fails_shows_the_programs_stderr() {
    let namespace = Namespace::new("failing");
    let mut limiter = stand_in(&namespace, "echo what went wrong >&2; exit 2");
    let finished = limiter.run_to_end().ended_with(2);
    assert_eq!(finished.stderr, "what went wrong\n");
    limiter.launch();
    let panicked = catch_unwind(AssertUnwindSafe(|| limiter.wait_ready())).unwrap_err();
    let message = panicked.downcast_ref::<String>().unwrap();
    assert!(message.contains("what went wrong"), "{message}");
}

#[test]
fn commands_are_given_the_socket_and_their_json_is_read() {
    let namespace = Namespace::new("cli");
    let limiter = stand_in(&namespace, "echo \"{\\\"arguments\\\": \\\"$*\\\"}\"");
    let document = limiter.json(&["bans", "--json"]);
    let expected = format!("bans --json --socket {}", limiter.socket().display());
    assert_eq!(document["arguments"], expected.as_str());
}

#[test]
fn a_command_that_hangs_is_killed() {
    let scratch = Scratch::new();
    let mut command = Command::new("sh");
    command.args(["-c", "echo before; exec sleep 60"]);
    let run = AssertUnwindSafe(|| finish(&mut command, &scratch, Duration::from_millis(100)));
    let panicked = catch_unwind(run).unwrap_err();
    let message = panicked.downcast_ref::<String>().unwrap();
    assert!(message.contains("before"), "{message}");
}

#[test]
fn everything_is_gone_after_a_drop() {
    let namespace = Namespace::new("drop");
    let mut limiter = stand_in(&namespace, "[ \"$1\" = run ] && exec sleep 60");
    limiter.launch();
    let directory = limiter.directory().to_owned();
    assert!(directory.join("bpf").exists());
    drop(limiter);
    assert!(!directory.exists());
    assert!(namespace.processes().is_empty());
}
