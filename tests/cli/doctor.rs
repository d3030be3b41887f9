//! `limiter doctor`: says what is, changes nothing, and its exit code says whether it is enough.

use std::{process::Command, time::Duration};

use limiter_tests::{
    process::{Finished, Limiter, binary, finish},
    world::World,
};
use serde_json::Value;

/// Runs it in the namespace of this agent, running or not, with its configuration file.
fn doctor(limiter: &Limiter, restrictions: &[&str], arguments: &[&str]) -> Finished {
    let mut command = if restrictions.is_empty() {
        limiter.namespace().command(binary())
    } else {
        let mut command = limiter.namespace().command("setpriv");
        command.args(restrictions).arg(binary());
        command
    };
    command.arg("doctor").args(arguments).arg("-c").arg(limiter.configuration());
    finish(&mut command, limiter.scratch(), Duration::from_secs(20))
}

/// State, what was found and the advice of one check.
#[track_caller]
fn finding(document: &Value, area: &str, check: &str) -> (String, String, String) {
    let findings = document["findings"].as_array().unwrap();
    let found = findings.iter().find(|one| one["area"] == area && one["check"] == check);
    let found = found.unwrap_or_else(|| panic!("no {area} {check} in {document:#}"));
    let text = |key: &str| found[key].as_str().unwrap().to_owned();
    (text("state"), text("found"), text("advice"))
}

#[test]
fn it_knows_the_kernel_the_host_and_the_interfaces_without_an_agent() {
    let world = World::new();
    let limiter = Limiter::prepare(&world.server, &World::kernel(""));
    let done = doctor(&limiter, &[], &["--json"]).succeeded();
    let document = done.json();
    assert_eq!(document["ok"], true);
    let keys: Vec<&str> = document.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["findings", "ok", "version"]);
    let tracepoint = "tracepoint sock:inet_sock_set_state with types";
    for check in ["version", "XDP programs", tracepoint, "prefix tries", "bpf_tcp_gen_syncookie"] {
        let (state, found, _) = finding(&document, "kernel", check);
        assert_eq!(state, "ok", "{check}: {found}");
    }
    let (_, loads, _) = finding(&document, "kernel", "program of this version");
    assert!(loads.starts_with("loads, ") && loads.ends_with(" instructions verified"), "{loads}");
    let (state, found, advice) = finding(&document, "interfaces", "server0");
    assert_eq!(state, "ok");
    assert!(found.starts_with("driver veth, MTU 1500, receive queues "), "{found}");
    assert!(found.ends_with("native XDP: yes, also large packets"), "{found}");
    assert!(advice.contains("ethtool -K PEER tx off"), "{advice}");
    assert_eq!(finding(&document, "agent", "state").0, "off");
    assert_eq!(finding(&document, "host", "net.ipv4.tcp_timestamps").1, "1");
    assert!(!limiter.pins().exists(), "nothing is pinned");

    let shown = doctor(&limiter, &[], &[]).succeeded().stdout;
    for line in ["kernel\n  ok       version: ", "\n  ok       server0: driver veth", "\nagent\n"] {
        assert!(shown.contains(line), "{line:?} in\n{shown}");
    }
}

#[test]
fn what_is_needed_and_missing_is_a_problem_and_otherwise_something_is_off() {
    let world = World::new();
    let text = World::kernel("").replace("\"server0\"", "\"server0\", \"nosuch0\", \"lo\"");
    let limiter = Limiter::prepare(&world.server, &text);
    let document = doctor(&limiter, &[], &["--json"]).ended_with(1).json();
    assert_eq!(document["ok"], false);
    let (state, found, _) = finding(&document, "interfaces", "missing");
    assert_eq!(state, "problem");
    assert!(found.starts_with("interface nosuch0 does not exist"), "{found}");
    let (state, _, advice) = finding(&document, "interfaces", "lo");
    assert_eq!(state, "off");
    assert!(advice.starts_with("its driver has no native XDP: it runs generically"), "{advice}");

    limiter.configure(&text.replace("[kernel]", "[kernel]\nrequired = false"));
    let document = doctor(&limiter, &[], &["--json"]).succeeded().json();
    assert_eq!(finding(&document, "interfaces", "missing").0, "off");

    limiter.configure(&World::kernel("attach = \"native\"").replace("server0", "lo"));
    let shown = doctor(&limiter, &[], &[]).ended_with(1).stdout;
    assert!(shown.contains("  problem  lo: driver none"), "{shown}");

    limiter.configure(&World::kernel(""));
    let restrictions = ["--bounding-set=-bpf,-perfmon"];
    let document = doctor(&limiter, &restrictions, &["--json"]).ended_with(1).json();
    let (state, found, _) = finding(&document, "kernel", "capabilities");
    assert_eq!((state.as_str(), found.as_str()), ("problem", "missing: CAP_BPF, CAP_PERFMON"));

    limiter.configure(&World::kernel("mode = \"enforcing\""));
    let document = doctor(&limiter, &[], &["--json"]).ended_with(1).json();
    assert_eq!(finding(&document, "configuration", "file").0, "problem");
}

#[test]
fn it_asks_the_agent_and_names_a_program_of_somebody_else() {
    let world = World::new();
    let limiter = Limiter::start(&world.server, &World::kernel(""));
    let document = doctor(&limiter, &[], &["--json"]).succeeded().json();
    let (state, found, _) = finding(&document, "agent", "state");
    assert_eq!((state, found), ("ok".into(), format!("ready, pid {}", limiter.status().agent_pid)));
    let (state, found, _) = finding(&document, "interfaces", "server0: XDP program");
    assert_eq!(state, "ok");
    assert!(found.starts_with("\"limiter\" (id ") && found.ends_with(", native)"), "{found}");

    let other = Limiter::prepare(&world.server, &World::kernel(""));
    let document = doctor(&other, &[], &["--json"]).ended_with(1).json();
    let (state, found, _) = finding(&document, "interfaces", "server0: XDP program");
    assert_eq!(state, "problem");
    assert!(found.starts_with("\"limiter\" (id "), "{found}");

    // Nobody has configured anything: what this kernel can do is said all the same.
    let mut command = Command::new(binary());
    command.args(["doctor", "--socket", "gone.sock"]).env_clear().env("LIMITER_CONFIG", "");
    let bare = finish(&mut command, limiter.scratch(), Duration::from_secs(20));
    assert!(bare.stdout.contains("  off      file: none\n"), "{bare:?}");
    assert!(bare.stdout.contains("  ok       XDP programs: yes\n"), "{bare:?}");
}
