//! Where XDP is put, what stands in the way, and how that is said.

use std::{fs, process::Command, time::Duration};

use limiter_common::verdict::{Action, Reason};
use limiter_tests::{
    counters::{Counters, assert_eventually},
    netns::Namespace,
    origin::Origin,
    process::{Finished, Limiter, finish},
    world::{CLIENTS, SINKS, World},
};

const SOON: Duration = Duration::from_secs(5);

/// Runs the agent to its end with `setpriv`: other users, fewer capabilities.
fn run_with(limiter: &Limiter, restrictions: &[&str]) -> Finished {
    let mut command = limiter.namespace().command("setpriv");
    command.args(restrictions).arg(limiter_tests::process::binary());
    command.args(["run", "-c"]).arg(limiter.configuration());
    finish(&mut command, limiter.scratch(), Duration::from_secs(20))
}

#[test]
fn natively_on_veth_and_every_packet_is_counted() {
    let world = World::new();
    let limiter = Limiter::start(&world.server, &World::kernel(""));
    let status = limiter.status();
    assert_eq!((status.state.as_str(), status.kernel_mode.as_str()), ("ready", "enforce"));
    let [interface] = status.interfaces.as_slice() else { panic!("{status:?}") };
    assert_eq!((interface.name.as_str(), interface.mode.as_str()), ("server0", "native"));
    assert_eq!(interface.index, world.veth.server.index);
    assert!(!interface.taken_over);
    assert_eq!(
        limiter.event("server0 (native)"),
        "INFO: [SECURITY] XDP attached: server0 (native)"
    );
    let before = Counters::of(&limiter);
    world.send(CLIENTS[0], 7);
    let expected = [(Action::Pass, Reason::Allowed, 7)];
    let ignored = [(Action::Pass, Reason::Essential)];
    assert_eventually(&limiter, &before, SOON, &expected, &ignored);
}

#[test]
fn generically_where_the_driver_cannot() {
    let namespace = Namespace::new("generic");
    let kernel = |lines: &str| format!("[kernel]\ninterfaces = [\"lo\"]\n{lines}\n{SINKS}");
    let limiter = Limiter::start(&namespace, &kernel(""));
    assert_eq!(limiter.status().interfaces[0].mode, "generic");
    limiter.event("XDP attached: lo (generic: its driver has no native XDP)");
    let shown = limiter.cli(&["status"]).succeeded().stdout;
    assert!(shown.contains("lo (generic: its driver has no native XDP)"), "{shown}");
    let before = Counters::of(&limiter);
    let socket = namespace.run(|| std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
    let peer = namespace.run(|| std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
    socket.send_to(b"x", peer.local_addr().unwrap()).unwrap();
    let expected = [(Action::Pass, Reason::Allowed, 1)];
    assert_eventually(&limiter, &before, SOON, &expected, &[(Action::Pass, Reason::Essential)]);
    drop(limiter);

    let limiter = Limiter::prepare(&namespace, &kernel("attach = \"native\""));
    let refused = limiter.run_to_end().ended_with(1);
    assert!(refused.stderr.contains("interface lo cannot run XDP in native mode"), "{refused:?}");
}

#[test]
fn an_interface_that_does_not_exist_is_named_beside_those_that_do() {
    let world = World::new();
    let text = World::kernel("").replace("server0", "nosuch0");
    let limiter = Limiter::prepare(&world.server, &text);
    let refused = limiter.run_to_end().ended_with(1);
    let expected = "limiter: interface nosuch0 does not exist; there are: lo, server0\n";
    assert!(refused.stderr.ends_with(expected), "{refused:?}");

    // Where the kernel half is not required, the other half works and the gap is told.
    let origin = Origin::start(&world.server);
    let text = text.replace("[kernel]", "[kernel]\nrequired = false") + &World::http(&origin);
    limiter.configure(&text);
    let mut limiter = limiter;
    limiter.restart();
    assert_eq!(world.get(CLIENTS[0], &[]).status, 200);
    let status = limiter.status();
    assert_eq!((status.state.as_str(), status.kernel_mode.as_str()), ("degraded", "enforce"));
    let sentence = "interface nosuch0 does not exist: its packets are filtered when it appears";
    assert_eq!(status.degraded, [sentence]);
    assert!(status.interfaces.is_empty());
    assert_eq!(limiter.event("it appears"), format!("ERROR: [SECURITY] Degraded: {sentence}"));
}

#[test]
fn a_program_of_somebody_else_is_not_replaced() {
    let world = World::new();
    // An agent with pins of its own is somebody else.
    let other = Limiter::start(&world.server, &World::kernel("deny = [\"10.9.0.2\"]"));
    let limiter = Limiter::prepare(&world.server, &World::kernel(""));
    let refused = limiter.run_to_end().ended_with(1);
    let start = "limiter: interface server0 already has an XDP program that is not this agent's: \
                 \"limiter\" (id ";
    let end = ", native); it is not replaced. End the program that holds it, or take it off with \
               `ip link set dev server0 xdpdrv off`\n";
    assert!(refused.stderr.contains(start) && refused.stderr.ends_with(end), "{refused:?}");
    let before = Counters::of(&other);
    world.send(CLIENTS[0], 3);
    let expected = [(Action::Drop, Reason::Denied, 3)];
    assert_eventually(&other, &before, SOON, &expected, &[(Action::Pass, Reason::Essential)]);
}

#[test]
fn missing_capabilities_are_named() {
    let world = World::new();
    let limiter = Limiter::prepare(&world.server, &World::kernel(""));
    let some = run_with(&limiter, &["--bounding-set=-net_admin,-perfmon"]).ended_with(1);
    assert!(some.stderr.contains("lacks: CAP_NET_ADMIN, CAP_PERFMON (run it as root"), "{some:?}");
    assert!(limiter.pins().read_dir().is_err(), "nothing was pinned");

    for directory in ["state", "run"] {
        let path = limiter.directory().join(directory);
        fs::create_dir_all(&path).unwrap();
        std::os::unix::fs::chown(&path, Some(65534), Some(65534)).unwrap();
    }
    fs::remove_file(limiter.directory().join("state/lock")).unwrap();
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let all = run_with(&limiter, &nobody).ended_with(1);
    assert!(all.stderr.contains("lacks: CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON ("), "{all:?}");
}

#[test]
fn a_bpf_file_system_is_mounted_where_there_is_none() {
    let world = World::new();
    let mut limiter = Limiter::prepare(&world.server, &World::kernel(""));
    let pins = limiter.directory().join("elsewhere/pins");
    limiter.pin_at(&pins).configure(&World::kernel(""));
    let refused = run_with(&limiter, &["--bounding-set=-sys_admin"]).ended_with(1);
    let expected = format!("no BPF file system at {} and mounting one failed", pins.display());
    assert!(refused.stderr.contains(&expected), "{refused:?}");
    assert!(refused.stderr.contains("needs CAP_SYS_ADMIN, or `mount -t bpf bpf "), "{refused:?}");

    limiter.restart();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounted = format!(" {} ", pins.display());
    assert!(mounts.lines().any(|line| line.contains(&mounted) && line.contains(" - bpf ")));
    assert_eq!(limiter.status().interfaces[0].mode, "native");
}

#[test]
fn a_second_agent_is_refused_and_changes_nothing() {
    let world = World::new();
    let limiter = Limiter::start(&world.server, &World::kernel("deny = [\"10.9.0.2\"]"));
    let pid = limiter.status().agent_pid;
    let refused = limiter.run_to_end().ended_with(1);
    let state = limiter.directory().join("state");
    let expected = format!(
        "limiter: another agent runs with the state directory {} (it holds {}/lock)\n",
        state.display(),
        state.display()
    );
    assert_eq!(refused.stderr, expected);
    assert_eq!(limiter.status().agent_pid, pid);
    let before = Counters::of(&limiter);
    world.send(CLIENTS[0], 2);
    let expected = [(Action::Drop, Reason::Denied, 2)];
    assert_eventually(&limiter, &before, SOON, &expected, &[(Action::Pass, Reason::Essential)]);
}

#[test]
fn several_interfaces_count_apart() {
    let world = World::new();
    let text = World::kernel("deny = [\"10.9.0.2\"]").replace("\"server0\"", "\"server0\", \"lo\"");
    let limiter = Limiter::start(&world.server, &text);
    let status = limiter.status();
    let modes: Vec<_> = status.interfaces.iter().map(|one| (&*one.name, &*one.mode)).collect();
    assert_eq!(modes, [("server0", "native"), ("lo", "generic")]);
    world.send(CLIENTS[0], 4);
    let dropped = |limiter: &Limiter| -> Vec<(String, u64)> {
        let packets = limiter.status().packets;
        let dropped = packets.into_iter().filter(|count| count.verdict == "drop");
        dropped.map(|count| (count.interface, count.packets)).collect()
    };
    limiter_tests::wait::eventually(SOON, "the drops are counted on server0 only", || {
        dropped(&limiter) == [("server0".to_owned(), 4)]
    });
    // XDP is there as others see it.
    let arguments = ["-n", world.server.name(), "link", "show", "server0"];
    let output = Command::new("ip").args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("xdp") && text.contains("prog/xdp id"), "{text}");
}
