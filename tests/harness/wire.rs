//! Namespaces are isolated and removed, veth pairs carry TCP of both families, raw frames arrive
//! as sent.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
    time::Duration,
};

use limiter_tests::{
    frames::{Frame, Vlan, tcp_flags},
    http::Connection,
    netns::Namespace,
    raw::Port,
    scratch::Scratch,
    veth::Veth,
    wait::{Deadline, eventually, holds_for},
};

const CLIENT: [&str; 4] = ["10.9.0.2/24", "10.9.0.3/24", "fd00:9::2/64", "fd00:9::3/64"];
const SERVER: [&str; 2] = ["10.9.0.1/24", "fd00:9::1/64"];

fn pair() -> (Namespace, Namespace, Veth) {
    let (client, server) = (Namespace::new("client"), Namespace::new("server"));
    let veth = Veth::between(&client, &CLIENT, &server, &SERVER);
    (client, server, veth)
}

fn network_of_this_thread() -> std::path::PathBuf {
    fs::read_link("/proc/thread-self/ns/net").unwrap()
}

#[test]
fn a_namespace_is_another_network_and_this_thread_stays() {
    let here = network_of_this_thread();
    let namespace = Namespace::new("isolation");
    let other = Namespace::new("isolation");
    assert_ne!(namespace.name(), other.name());
    let inside = namespace.run(network_of_this_thread);
    assert_ne!(inside, here);
    assert_ne!(inside, other.run(network_of_this_thread));
    assert_eq!(network_of_this_thread(), here);

    // Only lo, and up: the same port can be had in both, and reached from neither.
    let listener = namespace.run(|| TcpListener::bind("127.0.0.1:4711").unwrap());
    let address = listener.local_addr().unwrap();
    drop(other.run(|| TcpListener::bind(address).unwrap()));
    assert!(namespace.run(|| TcpStream::connect(address)).is_ok());
    // A process that another test starts holds copies of all sockets until it becomes itself.
    eventually(Duration::from_secs(5), "nobody listens in the other namespace", || {
        other.run(|| TcpStream::connect(address)).is_err()
    });

    let output = namespace.command("ip").args(["-o", "link"]).output().unwrap();
    let links = String::from_utf8(output.stdout).unwrap();
    assert_eq!(links.lines().count(), 1, "{links}");
    assert!(links.contains("lo:") && links.contains("UP"), "{links}");
    assert_eq!(namespace.read_sysctl("net/ipv6/conf/all/accept_dad"), "0");
}

#[test]
fn a_namespace_ends_with_its_processes_also_after_a_panic() {
    let (mut path, mut child) = (None, None);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let namespace = Namespace::new("panic");
        path = Some(namespace.path().to_owned());
        let sleeper = namespace.command("sleep").arg("60").spawn().unwrap();
        let process = sleeper.id();
        child = Some(sleeper);
        eventually(Duration::from_secs(5), "sleep is inside", || {
            namespace.processes() == [process]
        });
        namespace.run(|| panic!("on purpose"));
    }));
    let payload = panicked.unwrap_err();
    assert_eq!(payload.downcast_ref::<&str>(), Some(&"on purpose"));
    assert!(!path.unwrap().exists());
    let status = child.unwrap().wait().unwrap();
    assert!(!status.success(), "{status} is by SIGKILL");
}

#[test]
fn what_a_killed_run_left_is_swept_away() {
    // A process id that is free: a child's that ended.
    let mut ended = std::process::Command::new("true").spawn().unwrap();
    let process = ended.id();
    ended.wait().unwrap();
    let name = format!("limiter-test-{process}-0-left");
    let added = std::process::Command::new("ip").args(["netns", "add", &name]).status();
    assert!(added.unwrap().success());
    let directory = std::env::temp_dir().join(format!("limiter-test-{process}-0"));
    fs::create_dir_all(directory.join("below")).unwrap();

    // The sweep runs once in a process, so another one shall do it: this test again, only to
    // the point where it makes a namespace and a directory.
    let swept = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "wire::a_scratch_directory_goes_with_its_mounts"])
        .output()
        .unwrap();
    assert!(swept.status.success(), "{swept:?}");
    assert!(!std::path::Path::new("/run/netns").join(&name).exists());
    assert!(!directory.exists());
}

#[test]
fn a_scratch_directory_goes_with_its_mounts() {
    let _namespace = Namespace::new("sweeper");
    let scratch = Scratch::new();
    let file = scratch.write("a/b.txt", "text");
    assert_eq!(fs::read_to_string(file).unwrap(), "text");
    let bpffs = scratch.mount_bpffs("bpf");
    fs::create_dir(bpffs.join("pins")).unwrap();
    let path = scratch.path().to_owned();
    drop(scratch);
    assert!(!path.exists());
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(path.to_str().unwrap()));
}

#[test]
fn tcp_crosses_a_veth_pair_in_both_families_from_every_client_address() {
    let (client, server, veth) = pair();
    for listen in [veth.server.v4(), veth.server.v6()] {
        let listener = server.run(|| TcpListener::bind((listen, 0)).unwrap());
        let address = listener.local_addr().unwrap();
        let echo = thread::spawn(move || {
            for _ in 0..2 {
                let (mut stream, peer) = listener.accept().unwrap();
                stream.write_all(peer.ip().to_string().as_bytes()).unwrap();
            }
        });
        let sources: Vec<IpAddr> = veth
            .client
            .addresses
            .iter()
            .copied()
            .filter(|source| source.is_ipv4() == listen.is_ipv4())
            .collect();
        assert_eq!(sources.len(), 2);
        for source in sources {
            let timeout = Duration::from_secs(5);
            let open = || Connection::open_from(Some(source), address, timeout).unwrap();
            let mut connection = client.run(open);
            assert_eq!(connection.local_address().ip(), source);
            assert_eq!(connection.read_to_end().unwrap(), source.to_string().as_bytes());
        }
        echo.join().unwrap();
    }
    // A route makes further addresses reachable.
    client.batch("address add 198.51.100.7/32 dev lo\n");
    veth.server.route("198.51.100.0/24", veth.client.v4());
    let listener = server.run(|| TcpListener::bind((veth.server.v4(), 0)).unwrap());
    let address = listener.local_addr().unwrap();
    let source = "198.51.100.7".parse().unwrap();
    let timeout = Duration::from_secs(5);
    client.run(|| Connection::open_from(Some(source), address, timeout).unwrap());
    assert_eq!(listener.accept().unwrap().1.ip(), source);
}

#[test]
fn a_connection_to_nowhere_times_out() {
    let (client, _server, veth) = pair();
    veth.server.set_up(false);
    let address = SocketAddr::new(veth.server.v4(), 80);
    let start = Deadline::after(Duration::ZERO);
    let opened = client.run(|| Connection::open_from(None, address, Duration::from_millis(200)));
    assert!(matches!(opened, Err(limiter_tests::http::Failure::Timeout)), "{opened:?}");
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[test]
fn raw_frames_arrive_as_sent_at_the_rate_asked_for() {
    let (_client, _server, veth) = pair();
    let sender = Port::open(&veth.client);
    let mut receiver = Port::open(&veth.server);
    let frame = Frame::udp("10.9.0.2:1000", "10.9.0.1:9", b"one").bytes();
    sender.send(&frame);
    let wait = Duration::from_secs(5);
    assert_eq!(receiver.receive_matching(wait, |found| found == frame), Some(frame.clone()));

    // The outermost tag is taken off by the stack before a capture sees it.
    let inner = Frame::tcp("10.9.0.2:1000", "10.9.0.1:9", tcp_flags::SYN);
    let tagged = inner.clone().after_ethernet(Vlan::new(5)).bytes();
    sender.send(&tagged);
    let inner = inner.bytes();
    assert!(receiver.receive_matching(wait, |found| found == inner).is_some());

    let start = Deadline::after(Duration::ZERO);
    sender.send_many(&frame, 200, 1000);
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(190), "{took:?}");
    let arrived = receiver.count_matching(Duration::from_millis(100), |found| found == frame);
    assert_eq!(arrived, 200);
    // The sender does not hear itself.
    let mut sender = sender;
    assert!(sender.receive_matching(Duration::from_millis(50), |found| found == frame).is_none());
}

#[test]
fn a_quiet_pair_stays_quiet() {
    let (_client, server, veth) = pair();
    let mut port = Port::open(&veth.server);
    // Reports of multicast groups joined when the interfaces came up go on for a second or two.
    port.count_matching(Duration::from_millis(10), |_| true);
    let others = port.count_matching(Duration::from_millis(300), |frame| {
        !(frame.get(12..14) == Some(&[0x86, 0xdd]) && frame.get(20) == Some(&0))
    });
    assert_eq!(others, 0, "only MLD, which begins with hop-by-hop options");
    assert!(server.processes().is_empty());
}

#[test]
fn waiting_ends_with_the_condition_or_says_what_was_missing() {
    let mut looks = 0;
    eventually(Duration::from_secs(5), "the third look", || {
        looks += 1;
        looks == 3
    });
    assert!(holds_for(Duration::from_millis(20), || true));
    assert!(!holds_for(Duration::from_millis(20), || false));
    let late = catch_unwind(|| eventually(Duration::ZERO, "a miracle", || false)).unwrap_err();
    assert!(late.downcast_ref::<String>().unwrap().contains("a miracle"));
}

#[test]
fn bytes_pass_a_connection_unread() {
    let namespace = Namespace::new("bytes");
    let listener = namespace.run(|| TcpListener::bind("[::1]:0").unwrap());
    let address = listener.local_addr().unwrap();
    let mut client = namespace.run(|| Connection::open(address).unwrap());
    client.send(b"\0\xff not HTTP").unwrap();
    client.finish();
    let mut received = Vec::new();
    listener.accept().unwrap().0.read_to_end(&mut received).unwrap();
    assert_eq!(received, b"\0\xff not HTTP");
}
