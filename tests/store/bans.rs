//! Bans that hosts share: made, read at the start, ended, lifted, refused, and said only once.

use std::{thread, time::Duration};

use limiter_tests::wait::eventually;

use crate::support::{Cluster, SOON};

const OPEN: &str = "auth = \"none\"\nlimits = \"none\"";

#[test]
fn a_ban_holds_on_every_host_and_is_lifted_on_every_host() {
    let mut cluster = Cluster::of(2, OPEN, "", "");
    let [one, two] = cluster.hosts.as_slice() else { panic!() };
    let ban = ["ban", "192.0.2.1", "--for", "1h", "--scope", "http", "--reason", "noisy"];
    one.limiter.cli(&ban).succeeded();
    let seen = two.ban("192.0.2.1/32");
    assert_eq!((&seen["reason"], &seen["scope"]), (&"noisy".into(), &"http".into()));
    let origin = seen["origin"].as_str().unwrap();
    assert!(origin.starts_with("shared by "), "{origin}");
    assert!((3590..=3600).contains(&seen["seconds_left"].as_u64().unwrap()), "{seen}");
    two.limiter.event(&format!("Banned 192.0.2.1 for 1h: noisy ({origin})"));

    // A host that comes later reads what was said before.
    cluster.add("", OPEN, "", "");
    let [one, two, three] = cluster.hosts.as_slice() else { panic!() };
    assert_eq!(three.ban("192.0.2.1/32")["origin"], origin);

    // Said once, by the host that made it, and never again.
    thread::sleep(Duration::from_secs(2));
    assert_eq!((two.bans("said"), three.bans("said")), (0, 0));
    let said = cluster.redis.ask(&["HLEN", "limiter:bans"]);
    assert_eq!(said.trim(), "1");
    assert_eq!(cluster.redis.calls("hset"), 1);
    assert_eq!(one.limiter.json(&["bans", "--json"]).as_array().unwrap().len(), 1);

    // Lifted where it did not come from.
    three.limiter.cli(&["unban", "192.0.2.1"]).succeeded();
    for host in [one, two, three] {
        eventually(SOON, "the ban is lifted", || host.find_ban("192.0.2.1/32").is_none());
    }
    one.limiter.event("Unbanned 192.0.2.1");
    assert_eq!(cluster.redis.calls("hset"), 2);
}

#[test]
fn a_shared_ban_ends_everywhere() {
    let cluster = Cluster::of(2, OPEN, "", "");
    let [one, two] = cluster.hosts.as_slice() else { panic!() };
    one.limiter.cli(&["ban", "192.0.2.1", "--for", "3s", "--scope", "http"]).succeeded();
    two.ban("192.0.2.1/32");
    for host in [one, two] {
        eventually(SOON, "the ban ends", || host.find_ban("192.0.2.1/32").is_none());
    }
    // Something else is said: what has ended is forgotten.
    one.limiter.cli(&["ban", "192.0.2.2", "--for", "1h", "--scope", "http"]).succeeded();
    two.ban("192.0.2.2/32");
    assert_eq!(cluster.redis.ask(&["HLEN", "limiter:bans"]).trim(), "1");
}

#[test]
fn who_is_trusted_here_is_not_banned_on_anothers_word() {
    let mut cluster = Cluster::of(1, OPEN, "", "");
    let kernel = "[kernel]\ninterfaces = [\"host0\"]\nfailsafe_ports = []\n\
                  trusted = [\"192.0.2.9\"]\n";
    cluster.add("", OPEN, "", kernel);
    let [one, two] = cluster.hosts.as_slice() else { panic!() };
    for address in ["192.0.2.9", "192.0.2.10"] {
        one.limiter.cli(&["ban", address, "--for", "1h", "--scope", "http"]).succeeded();
    }
    two.ban("192.0.2.10/32");
    assert_eq!(two.find_ban("192.0.2.9/32"), None);
    assert_eq!((two.bans("refused"), two.bans("followed")), (1, 1));
    two.limiter.wait_for_line(SOON, "192.0.2.9/32, banned by");
    // Nor is everybody.
    one.limiter.cli(&["ban", "0.0.0.0/0", "--scope", "http", "--force"]).succeeded();
    eventually(SOON, "it is refused, too", || two.bans("refused") == 2);

    // A ban of packets is one of requests where packets are not looked at.
    two.limiter.cli(&["ban", "192.0.2.20", "--for", "1h"]).succeeded();
    assert_eq!(one.ban("192.0.2.20/32")["scope"], "http");
    two.limiter.cli(&["unban", "192.0.2.20"]).succeeded();
    eventually(SOON, "it is lifted", || one.find_ban("192.0.2.20/32").is_none());
    // And lifted as such.
    two.limiter.cli(&["ban", "192.0.2.20", "--for", "1h"]).succeeded();
    one.ban("192.0.2.20/32");
    one.limiter.cli(&["unban", "192.0.2.20"]).succeeded();
    eventually(SOON, "it is lifted there", || two.find_ban("192.0.2.20/32").is_none());
}

#[test]
fn what_changes_while_the_store_is_away_is_said_when_it_is_back() {
    let mut cluster = Cluster::of(2, OPEN, "", "");
    cluster.hosts[0]
        .limiter
        .cli(&["ban", "192.0.2.1", "--for", "1h", "--scope", "http"])
        .succeeded();
    cluster.hosts[1].ban("192.0.2.1/32");
    cluster.redis.kill();
    let [one, two] = cluster.hosts.as_slice() else { panic!() };
    one.limiter.cli(&["ban", "192.0.2.2", "--for", "1h", "--scope", "http"]).succeeded();
    two.limiter.cli(&["ban", "192.0.2.3", "--for", "1h", "--scope", "http"]).succeeded();
    eventually(SOON, "it is told", || {
        one.limiter.status().degraded.iter().any(|it| it.starts_with("bans are not shared"))
    });
    assert!(one.find_ban("192.0.2.1/32").is_some(), "bans stay in force");
    // It comes back empty.
    cluster.redis.launch();
    let [one, two] = cluster.hosts.as_slice() else { panic!() };
    one.ban("192.0.2.3/32");
    two.ban("192.0.2.2/32");
    assert_eq!(two.ban("192.0.2.1/32")["origin"], one.ban("192.0.2.3/32")["origin"]);
    eventually(SOON, "all is well", || {
        [one, two].iter().all(|host| host.limiter.status().degraded.is_empty())
    });
    eventually(SOON, "all bans are in the store again", || {
        cluster.redis.ask(&["HLEN", "limiter:bans"]).trim() == "3"
    });
}

#[test]
fn a_ban_that_ended_while_the_store_was_away_is_not_said() {
    let mut cluster = Cluster::of(2, OPEN, "", "");
    cluster.redis.kill();
    let one = &cluster.hosts[0];
    for (address, length) in [("192.0.2.1", "2s"), ("192.0.2.2", "1h")] {
        one.limiter.cli(&["ban", address, "--for", length, "--scope", "http"]).succeeded();
    }
    eventually(SOON, "the ban ends", || one.find_ban("192.0.2.1/32").is_none());
    thread::sleep(Duration::from_secs(3));
    cluster.redis.launch();
    let two = &cluster.hosts[1];
    let seen = two.ban("192.0.2.2/32");
    // It ends there when it ends where it was made.
    assert!(seen["seconds_left"].as_u64().unwrap() < 3598, "{seen}");
    assert_eq!(two.find_ban("192.0.2.1/32"), None);
    assert_eq!(cluster.redis.ask(&["HLEN", "limiter:bans"]).trim(), "1");
}

#[test]
fn a_ban_that_was_lifted_meanwhile_is_not_brought_back() {
    let mut cluster = Cluster::of(2, OPEN, "", "");
    let ban = ["ban", "192.0.2.1", "--for", "1h", "--scope", "http"];
    cluster.hosts[0].limiter.cli(&ban).succeeded();
    cluster.hosts[1].ban("192.0.2.1/32");
    // Its own agent is away while another host lifts it.
    cluster.hosts[0].limiter.kill_agent();
    cluster.hosts[1].limiter.cli(&["unban", "192.0.2.1"]).succeeded();
    eventually(SOON, "it is said", || cluster.redis.calls("hset") == 2);
    cluster.hosts[0].limiter.restart();
    let [one, two] = cluster.hosts.as_slice() else { panic!() };
    eventually(SOON, "it is lifted there, too", || one.find_ban("192.0.2.1/32").is_none());
    thread::sleep(Duration::from_secs(1));
    assert_eq!(two.find_ban("192.0.2.1/32"), None);
    // Banned anew, it is.
    one.limiter.cli(&ban).succeeded();
    two.ban("192.0.2.1/32");
}

#[test]
fn a_lift_while_the_store_is_away_outlives_the_agent() {
    const LATER: Duration = Duration::from_secs(30);
    let mut cluster = Cluster::of(2, OPEN, "", "");
    for address in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
        let ban = ["ban", address, "--for", "1h", "--scope", "http"];
        cluster.hosts[0].limiter.cli(&ban).succeeded();
        cluster.hosts[1].ban(&format!("{address}/32"));
    }
    cluster.redis.pause();
    let lifting = &mut cluster.hosts[1];
    for address in ["192.0.2.1", "192.0.2.2"] {
        lifting.limiter.cli(&["unban", address]).succeeded();
    }
    // This one is made again before anybody heard of it.
    lifting.limiter.cli(&["ban", "192.0.2.2", "--for", "2h", "--scope", "http"]).succeeded();
    lifting.limiter.kill_agent();
    lifting.limiter.restart();
    cluster.redis.resume();
    let [one, two] = cluster.hosts.as_slice() else { panic!() };
    eventually(LATER, "it is lifted there", || one.find_ban("192.0.2.1/32").is_none());
    thread::sleep(Duration::from_secs(1));
    for host in [one, two] {
        assert_eq!(host.find_ban("192.0.2.1/32"), None);
        assert!(host.find_ban("192.0.2.2/32").is_some() && host.find_ban("192.0.2.3/32").is_some());
    }
    // Said once: later bans of the same address stay.
    one.limiter.cli(&["ban", "192.0.2.1", "--for", "1h", "--scope", "http"]).succeeded();
    two.ban("192.0.2.1/32");
    two.limiter.cli(&["ban", "192.0.2.9", "--for", "1h", "--scope", "http"]).succeeded();
    one.ban("192.0.2.9/32");
    assert!(one.find_ban("192.0.2.1/32").is_some());
}

#[test]
fn a_lift_while_the_store_is_away_holds_where_it_was_made() {
    let cluster = Cluster::of(2, OPEN, "", "");
    let [one, two] = cluster.hosts.as_slice() else { panic!() };
    one.limiter.cli(&["ban", "192.0.2.1", "--for", "1h", "--scope", "http"]).succeeded();
    two.ban("192.0.2.1/32");
    cluster.redis.pause();
    two.limiter.cli(&["unban", "192.0.2.1"]).succeeded();
    eventually(SOON, "it is told", || {
        two.limiter.status().degraded.iter().any(|it| it.starts_with("bans are not shared"))
    });
    cluster.redis.resume();
    eventually(Duration::from_secs(30), "it is lifted there", || {
        one.find_ban("192.0.2.1/32").is_none()
    });
    thread::sleep(Duration::from_secs(1));
    assert_eq!(two.find_ban("192.0.2.1/32"), None);
}

#[test]
fn what_others_write_into_the_store_is_no_command() {
    let cluster = Cluster::of(1, OPEN, "", "");
    let host = &cluster.hosts[0];
    let till = "99999999999999";
    for (place, (ban, said)) in [
        ("http 192.0.2.1/99", format!("{till} x host reason")),
        ("http everything", format!("{till} x host reason")),
        ("http 192.0.2.2/32", "nonsense".to_owned()),
        ("http 192.0.2.3/32", format!("{till} x evil\u{1b}[2J line\nof\ttext")),
    ]
    .iter()
    .enumerate()
    {
        cluster.redis.ask(&["HSET", "limiter:bans", ban, said]);
        let change = format!("90000000000000{place}0");
        cluster.redis.ask(&["ZADD", "limiter:bans:changes", &change, ban]);
    }
    let ban = host.ban("192.0.2.3/32");
    assert_eq!(ban["reason"], "lineoftext");
    eventually(SOON, "the rest is counted", || host.bans("unreadable") == 2);
    assert!(host.limiter.events().iter().all(|line| !line.contains('\u{1b}')));
    assert_eq!(host.limiter.json(&["bans", "--json"]).as_array().unwrap().len(), 1);
}
