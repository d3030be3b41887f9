//! Change without loss: reloads, crashes of the proxy and another version of the program, while
//! clients ask without a pause and limits are counted to the last request.

use std::{
    fs,
    net::IpAddr,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt},
        net::UnixDatagram,
    },
    path::PathBuf,
    thread,
    time::Duration,
};

use limiter_tests::{
    http,
    load::{Load, Tally},
    process::{self, Limiter},
    wait::{Deadline, eventually},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::support::{SOON, Site};

/// What a client of the limited route may ask in all: a bucket that hardly refills in a test.
const ALLOWED: u64 = 400;

/// An open route, and one whose limit is never refilled while a test lasts.
fn routes() -> (String, String) {
    let open = "path = \"/open\"\nauth = \"none\"\nlimits = \"none\"".to_owned();
    let limited = format!(
        "[[http.route]]\npath = \"/limited\"\nauth = \"none\"\nlimits = [\"exact\"]\n\
         [limits.exact]\nalgorithm = \"token_bucket\"\nrate = \"2/24h\"\nburst = {ALLOWED}\n\
         [escalation]\nmode = \"monitor\"\n"
    );
    (open, limited)
}

fn site() -> Site {
    let (open, limited) = routes();
    Site::prepare("", &open, &limited)
}

/// Clients on both routes.
struct Traffic {
    open: Load,
    limited: Load,
}

impl Traffic {
    fn start(site: &Site) -> Self {
        let load = |source: &str, path, clients| {
            let source: IpAddr = source.parse().unwrap();
            let get = http::request("GET", path, &[], b"");
            Load::start(&site.namespace, source, Site::address(), &get, clients)
        };
        let both =
            Self { open: load("127.0.0.2", "/open", 4), limited: load("127.0.0.3", "/limited", 2) };
        both.flows();
        both
    }

    fn flows(&self) {
        self.open.flows(20);
        self.limited.flows(10);
    }

    /// Every request on the open route was answered with 200, and the limit let exactly as many
    /// pass as it allows.
    #[track_caller]
    fn end(self, may_fail: u64) -> (Tally, Tally) {
        let (open, limited) = (self.open.stop(), self.limited.stop());
        assert!(open.failed + limited.failed <= may_fail, "{open:?} {limited:?}");
        assert_eq!(open.statuses.keys().copied().collect::<Vec<_>>(), [200], "{open:?}");
        assert!(limited.statuses.keys().all(|status| [200, 429].contains(status)), "{limited:?}");
        let passed = limited.statuses[&200];
        // What failed may have been counted before the answer was lost.
        assert!((ALLOWED - limited.failed..=ALLOWED).contains(&passed), "{limited:?}");
        (open, limited)
    }
}

#[test]
fn a_reload_every_100_ms_fails_no_request_and_forgets_no_count() {
    const LASTS: Duration = Duration::from_secs(30);
    let mut site = site();
    site.limiter.restart();
    let traffic = Traffic::start(&site);
    let (open, limited) = routes();
    let began = Deadline::after(Duration::ZERO);
    let mut reloads = 0_u32;
    let mut slowest = Duration::ZERO;
    while began.elapsed() < LASTS {
        // Another policy each time.
        let more = format!(
            "{limited}[[http.route]]\npath = \"/more{reloads}\"\nauth = \"none\"\nlimits = \"none\"\n"
        );
        let asked = Deadline::after(Duration::ZERO);
        if reloads % 10 == 9 {
            site.reload("", &open, &more);
        } else {
            site.limiter.configure(&crate::support::configuration(&site.origin, "", &open, &more));
            assert_eq!(site.limiter.control("POST", "/v1/reload", b"").status, 200);
        }
        slowest = slowest.max(asked.elapsed());
        reloads += 1;
        thread::sleep((Duration::from_millis(100) * reloads).saturating_sub(began.elapsed()));
    }
    traffic.flows();
    let (open, limited) = traffic.end(0);
    let status = site.limiter.status();
    assert_eq!((status.proxy_starts, status.policy_generation), (1, u64::from(reloads) + 1));
    assert!(reloads >= 150, "{reloads} reloads");
    println!("{reloads} reloads, the slowest {slowest:?}; {open:?}; {limited:?}");
}

#[test]
fn a_killed_proxy_is_back_within_100_ms_and_forgets_no_count() {
    let mut site = site();
    site.limiter.restart();
    let traffic = Traffic::start(&site);
    let mut away = Vec::new();
    for _ in 0..10 {
        let before = site.limiter.proxy_pid();
        let proxy = i32::try_from(before.unwrap()).unwrap();
        let began = Deadline::after(Duration::ZERO);
        // Not waited for: a connection that it did not take waits for the next.
        kill(Pid::from_raw(proxy), Signal::SIGKILL).unwrap();
        while fs::metadata(format!("/proc/{proxy}/ns/net")).is_ok() {}
        assert_eq!(site.get("/open", &[]).status, 200);
        away.push(began.elapsed());
        eventually(SOON, "the next proxy is known", || site.limiter.proxy_pid() != before);
        traffic.flows();
    }
    away.sort();
    println!("away for {away:?}");
    assert!(away[away.len() / 4] < Duration::from_millis(100), "{away:?}");
    traffic.limited.flows(ALLOWED);
    // What was under way on a connection of a killed process is lost, nothing else.
    traffic.end(6 * 10);
    assert_eq!(site.limiter.status().proxy_starts, 11);
}

/// A copy of the program in the directory of a test, to be replaced.
fn install(limiter: &mut Limiter) -> PathBuf {
    let path = limiter.directory().join("limiter");
    fs::copy(process::binary(), &path).unwrap();
    limiter.set_program(&path);
    path
}

fn replace(program: &PathBuf) {
    let new = program.with_extension("new");
    fs::copy(process::binary(), &new).unwrap();
    fs::rename(new, program).unwrap();
}

/// The file that a process runs.
fn runs(process: u32) -> u64 {
    fs::metadata(format!("/proc/{process}/exe")).unwrap().ino()
}

#[test]
fn another_version_takes_over_under_load_and_forgets_no_count() {
    let mut site = site();
    let program = install(&mut site.limiter);
    site.limiter.restart();
    let traffic = Traffic::start(&site);
    let agent = site.limiter.agent_pid();
    for _ in 0..3 {
        let (proxy, before) = (site.limiter.proxy_pid().unwrap(), runs(agent));
        replace(&program);
        site.limiter.signal(Signal::SIGUSR2);
        eventually(SOON, "the new program runs", || runs(agent) != before);
        site.limiter.wait_ready();
        let next = site.limiter.proxy_pid().unwrap();
        assert_ne!(next, proxy);
        assert_eq!(runs(next), fs::metadata(&program).unwrap().ino());
        traffic.flows();
    }
    traffic.limited.flows(ALLOWED);
    let (open, limited) = traffic.end(0);
    println!("{open:?} {limited:?}");
    assert_eq!(site.limiter.agent_pid(), agent);
    eventually(SOON, "one agent and one proxy are left", || site.namespace.processes().len() == 2);
    assert!(site.limiter.terminate(SOON).success());
}

#[test]
fn a_version_that_cannot_take_over_changes_nothing() {
    let mut site = site();
    let program = install(&mut site.limiter);
    site.limiter.restart();
    let (agent, proxy) = (site.limiter.agent_pid(), site.limiter.proxy_pid());
    let before = runs(agent);
    let configuration = fs::read_to_string(site.limiter.configuration()).unwrap();
    site.limiter.configure_exactly("nonsense = 1\n");
    replace(&program);
    site.limiter.signal(Signal::SIGUSR2);
    let told = site.limiter.wait_for_line(SOON, "does not take over");
    assert!(told.contains("nonsense"), "{told}");
    site.limiter.configure_exactly(&configuration);
    fs::write(program.with_extension("new"), "#!/bin/sh\necho no >&2; exit 7\n").unwrap();
    fs::set_permissions(program.with_extension("new"), PermissionsExt::from_mode(0o755)).unwrap();
    fs::rename(program.with_extension("new"), &program).unwrap();
    site.limiter.signal(Signal::SIGUSR2);
    site.limiter.wait_for_line(SOON, "exit status: 7");
    fs::remove_file(&program).unwrap();
    site.limiter.signal(Signal::SIGUSR2);
    site.limiter.wait_for_line(SOON, "No such file");
    replace(&program);
    assert_eq!((runs(agent), site.limiter.proxy_pid()), (before, proxy));
    assert_eq!(site.get("/open", &[]).status, 200);
}

/// What a service manager is told.
struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    fn of(limiter: &mut Limiter) -> Self {
        let path = limiter.directory().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        limiter.environment("NOTIFY_SOCKET", path);
        limiter.environment("WATCHDOG_USEC", "200000");
        Self { socket }
    }

    /// Waits for a message with this line, and returns all of it.
    #[track_caller]
    fn told(&self, line: &str) -> String {
        let mut bytes = [0; 4096];
        let until = Deadline::after(SOON);
        loop {
            assert!(!until.is_over(), "no {line}");
            let length = self.socket.recv(&mut bytes).unwrap_or_else(|_| panic!("no {line}"));
            let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
            if text.lines().any(|found| found == line) {
                return text;
            }
        }
    }
}

#[test]
fn the_service_manager_is_told_of_every_turn() {
    let mut site = site();
    let manager = Manager::of(&mut site.limiter);
    site.limiter.restart();
    manager.told("READY=1");
    assert_eq!(site.get("/open", &[]).status, 200, "ready is ready");
    for _ in 0..3 {
        manager.told("WATCHDOG=1");
    }
    site.limiter.signal(Signal::SIGHUP);
    assert!(manager.told("RELOADING=1").contains("MONOTONIC_USEC="));
    manager.told("READY=1");
    manager.told("STATUS=policy generation 2 is in force");
    let configuration = fs::read_to_string(site.limiter.configuration()).unwrap();
    site.limiter.configure_exactly("nonsense = 1\n");
    site.limiter.signal(Signal::SIGHUP);
    manager.told("RELOADING=1");
    manager.told("READY=1");
    site.limiter.configure_exactly(&configuration);
    site.limiter.signal(Signal::SIGUSR2);
    manager.told("RELOADING=1");
    manager.told("READY=1");
    manager.told("WATCHDOG=1");
    site.limiter.signal(Signal::SIGTERM);
    manager.told("STOPPING=1");
    assert!(site.limiter.wait_end(SOON).success());
}
