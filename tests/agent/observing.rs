//! What can be seen of a running agent: metrics, the past, the top, the status.

use std::{
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use limiter_tests::{
    load::Flood,
    origin::Origin,
    process::Limiter,
    wait::{Deadline, eventually, eventually_some},
    world::{CLIENTS, World},
};

use crate::support::SOON;

/// The answer to `GET /metrics`, and its type.
fn metrics(limiter: &Limiter) -> String {
    let response = limiter.control("GET", "/metrics", b"");
    assert_eq!(response.status, 200);
    let form = response.header("content-type").unwrap_or_default();
    assert_eq!(form, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    String::from_utf8(response.body).unwrap()
}

#[test]
fn metrics_say_what_the_status_says() {
    let world = World::new();
    let origin = Origin::start(&world.server);
    let text = World::kernel("deny = [\"10.9.0.3\"]") + &World::http(&origin);
    let limiter = Limiter::start(&world.server, &text);
    assert_eq!(world.get(CLIENTS[0], &[]).status, 200);
    limiter.cli(&["ban", CLIENTS[2]]).succeeded();
    world.send(CLIENTS[1], 7);
    let denied =
        "limiter_packets_total{interface=\"server0\",verdict=\"drop\",reason=\"denied\"} 7";
    eventually(SOON, "the packets are counted", || metrics(&limiter).contains(denied));
    let text = metrics(&limiter);
    for line in [
        "limiter_attach_mode{interface=\"server0\",mode=\"native\"} 1",
        "limiter_bans{scope=\"kernel\"} 1",
        "limiter_bans{scope=\"http\"} 0",
        "limiter_map_entries{map=\"bans\"} 1",
        "limiter_map_capacity{map=\"bans\"} 65536",
        "limiter_map_entries{map=\"list_addresses\"} 1",
        "limiter_map_entries{map=\"list_networks\"} 0",
        "limiter_map_capacity{map=\"list_networks\"} 1048576",
        "limiter_events_lost_total{stage=\"kernel\"} 0",
        "limiter_proxy_starts_total 1",
        "limiter_problems 0",
        "# TYPE limiter_packets counter",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
    }
    let route = "limiter_requests_total{route=\"/\",code=\"200\",refusal=\"\"} 1";
    eventually(SOON, "the request is counted", || metrics(&limiter).contains(route));
    assert!(text.ends_with("# EOF\n"));
    for address in CLIENTS {
        assert!(!text.contains(address), "no label is a client's:\n{text}");
    }
    // The same numbers in both.
    let status = limiter.status();
    for count in status.packets.iter().filter(|count| count.verdict == "drop") {
        let (verdict, reason) = (&count.verdict, &count.reason);
        let line = format!(
            "limiter_bytes_total{{interface=\"server0\",verdict=\"{verdict}\",reason=\"{reason}\"}} {}",
            count.bytes
        );
        assert!(text.contains(&line), "{line}:\n{text}");
    }
}

#[test]
fn the_past_is_asked_for_by_time_kind_and_source() {
    let world = World::new();
    let limiter = Limiter::start(&world.server, &World::kernel("deny = [\"10.9.0.3\"]"));
    limiter.cli(&["ban", CLIENTS[0]]).succeeded();
    // Times are told in whole seconds.
    thread::sleep(Duration::from_millis(2_100));
    limiter.cli(&["unban", CLIENTS[0]]).succeeded();
    world.send(CLIENTS[1], 3);
    limiter.event("packets from 10.9.0.3 in 1s: denied");
    let lines = |arguments: &[&str]| {
        let shown = limiter.cli(&[&["events"], arguments].concat()).succeeded().stdout;
        shown.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(lines(&["--since", "1h"])[0].contains("XDP attached"));
    let late = lines(&["--since", "2s", "--kind", "*"]);
    assert!(late[0].contains("Unbanned 10.9.0.2"), "{late:?}");
    // As the log writes it, and with an offset.
    let written = late[0][1..20].to_owned();
    assert_eq!(lines(&["--since", &written, "--kind", "*"])[0], late[0]);
    let shifted = format!("{}+00:00", written.replace(' ', "T"));
    assert_eq!(lines(&["--since", &shifted, "--kind", "*"])[0], late[0]);
    assert!(lines(&["--since", "1h", "--kind", "unban*"]).len() == 1);
    let only = lines(&["--since", "1h", "--source", "10.9.0.3"]);
    assert!(!only.is_empty() && only.iter().all(|line| line.contains("Dropped")), "{only:?}");
    // The past, and then what happens.
    let mut follower = limiter
        .cli_command(&["events", "-f", "--since", "1h", "--json"])
        .stdout(std::fs::File::create(limiter.directory().join("since.json")).unwrap())
        .spawn()
        .unwrap();
    eventually(SOON, "the past comes first", || !limiter.lines("since.json").is_empty());
    limiter.cli(&["ban", CLIENTS[3]]).succeeded();
    eventually(SOON, "then the present", || {
        limiter.lines("since.json").iter().any(|line| line.contains("Banned 10.9.0.5"))
    });
    follower.kill().unwrap();
    follower.wait().unwrap();
    let numbers: Vec<u64> = limiter
        .lines("since.json")
        .iter()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|event| event["limiter.sequence"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
}

#[test]
fn top_shows_rates_of_senders_and_of_dropped_sources() {
    let world = World::new();
    let lines = "deny = [\"10.9.0.3\"]\n[kernel.limits]\npackets = \"300/s\"";
    let limiter = Limiter::start(&world.server, &World::kernel(lines));
    let frames = vec![world.datagram(CLIENTS[0]), world.datagram(CLIENTS[1])];
    let flood = Flood::start(&world.veth.client, frames, 2_000);
    flood.flows(100);
    let deadline = Deadline::after(Duration::from_secs(12));
    let top = limiter.json(&["top", "--once", "--json", "--sort", "dropped"]);
    let sources = top["sources"].as_array().unwrap();
    let find = |address: &str| {
        let source = format!("{address}/32");
        sources.iter().find(|one| one["source"] == source).unwrap_or_else(|| panic!("{top}"))
    };
    let (sender, listed) = (find(CLIENTS[0]), find(CLIENTS[1]));
    let rate = |source: &serde_json::Value, key: &str| source[key].as_u64().unwrap();
    assert!((500..2_000).contains(&rate(sender, "packets_per_second")), "{top}");
    assert!((300..1_000).contains(&rate(sender, "drops_per_second")), "{top}");
    assert_eq!((&sender["verdict"], &sender["reason"]), (&"drop".into(), &"packet_rate".into()));
    assert!((500..2_000).contains(&rate(listed, "drops_per_second")), "{top}");
    assert_eq!((&listed["reason"], &listed["list"]), (&"denied".into(), &"deny".into()));
    let verdicts = top["verdicts"].as_array().unwrap();
    assert!(verdicts.iter().any(|one| one["reason"] == "denied"), "{top}");
    assert!(!deadline.is_over());
    let shown = limiter.cli(&["top", "--once"]).succeeded().stdout;
    for part in ["VERDICT", "SOURCE", "10.9.0.3", "packet_rate"] {
        assert!(shown.contains(part), "{part}:\n{shown}");
    }
    flood.stop();
    let refused = limiter.cli(&["top"]).ended_with(2);
    assert!(refused.stderr.contains("needs a terminal"), "{refused:?}");
}

/// On a terminal (`script` of util-linux makes one): drawn, and given back as it was.
#[test]
fn top_gives_the_terminal_back_whatever_ends_it() {
    let world = World::new();
    let limiter = Limiter::start(&world.server, &World::kernel(""));
    for signal in ["TERM", "HUP", "quit"] {
        let top = limiter.cli_command(&["top"]);
        let words: Vec<String> = std::iter::once(top.get_program())
            .chain(top.get_args())
            .map(|word| format!("'{}'", word.to_str().unwrap()))
            .collect();
        let record = limiter.directory().join(format!("screen.{signal}"));
        // A size, as a terminal has; the process id, then top in its place.
        let pid = limiter.directory().join(format!("pid.{signal}"));
        let line =
            format!("stty rows 30 cols 100; echo $$ > {}; exec {}", pid.display(), words.join(" "));
        let mut script = Command::new("script")
            .args(["--quiet", "--flush", "--command", &line])
            .arg(&record)
            .env("TERM", "xterm-256color")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("script (util-linux)");
        let screen =
            || String::from_utf8_lossy(&std::fs::read(&record).unwrap_or_default()).into_owned();
        eventually(SOON, "it is drawn", || screen().contains("packets/s"));
        if signal == "quit" {
            use std::io::Write as _;
            script.stdin.as_mut().unwrap().write_all(b"q").unwrap();
        } else {
            let pid = std::fs::read_to_string(&pid).unwrap();
            let killed = Command::new("kill").args([&format!("-{signal}"), pid.trim()]).status();
            assert!(killed.unwrap().success());
        }
        let ended = eventually_some(SOON, "it ends", || script.try_wait().unwrap());
        assert_eq!(ended.code(), Some(0), "{signal}");
        // Left the alternate screen, and shows the cursor.
        let shown = screen();
        assert!(shown.contains("\u{1b}[?1049h") && shown.contains("\u{1b}[?1049l"), "{signal}");
        assert!(shown.rfind("\u{1b}[?25h") > shown.rfind("\u{1b}[?25l"), "{signal}");
    }
}

#[test]
fn explanations_name_the_rule() {
    let world = World::new();
    let lines = "default = \"deny\"\nallow = [\"10.9.0.0/16\"]\ndeny = [\"10.9.0.2\"]\n\
                 [[kernel.service]]\nname = \"dns\"\nports = [\"udp/53\"]\nallow = [\"10.9.0.3\"]";
    let limiter = Limiter::start(&world.server, &World::kernel(lines));
    limiter.cli(&["allow", "add", "10.9.0.3", "--runtime"]).succeeded();
    limiter.cli(&["deny", "add", "192.0.2.0/24"]).succeeded();
    let explain = |source: &str, rest: &[&str]| {
        let arguments = [&["explain", "--source", source], rest].concat();
        limiter.cli(&arguments).succeeded().stdout
    };
    for (source, rule) in [
        ("10.9.0.2", "the lists say: deny (10.9.0.2/32, configuration)"),
        ("10.9.0.3", "the lists say: allow (10.9.0.3/32, runtime)"),
        ("10.9.0.4", "the lists say: allow (10.9.0.0/16, configuration)"),
        ("192.0.2.9", "the lists say: deny (192.0.2.0/24, saved)"),
        ("198.51.100.1", "the lists say: default (deny)"),
    ] {
        let told = explain(source, &[]);
        assert!(told.contains(rule), "{source}: {told}");
    }
    let dns = ["--proto", "udp", "--port", "53"];
    for (source, verdict, rule) in [
        ("10.9.0.3", "pass (allowed)", "service `dns`, whose list names it (10.9.0.3/32)"),
        ("10.9.0.4", "drop (not_allowed)", "service `dns`, whose list does not name it"),
    ] {
        let told = explain(source, &dns);
        assert!(told.starts_with(&format!("{source}: {verdict}\n")), "{told}");
        assert!(told.contains(rule), "{source}: {told}");
    }
}
