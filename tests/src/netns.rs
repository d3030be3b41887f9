//! Network namespaces that live as long as the test.
//!
//! A thread enters one by `setns(CLONE_NEWNET)` alone. `ip netns exec` is never used: it remounts
//! `/sys`, which hides the bpffs where the agent pins its links.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    panic,
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    sync::{
        Arc, Once,
        atomic::{AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::wait::Deadline;

/// Where `ip netns` keeps its names.
const NAMES: &str = "/run/netns";

/// First part of every name of ours; then the process id, a counter and the caller's prefix.
const OURS: &str = "limiter-test-";

/// What keeps a test's own counters exact: no duplicate address detection, no router discovery.
const QUIET: [(&str, &str); 6] = [
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/all/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/all/router_solicitations", "0"),
    ("net/ipv6/conf/default/router_solicitations", "0"),
];

/// A network namespace with `lo` up. Clones are handles of the same one; dropping the last kills
/// what still runs inside and removes it.
#[derive(Clone, Debug)]
pub struct Namespace(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    path: PathBuf,
    file: File,
}

impl Namespace {
    /// Makes a namespace whose name ends in `prefix` (for people; names are unique anyway). The
    /// first call in a process removes what killed earlier runs left behind. Needs root.
    pub fn new(prefix: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        static SWEEP: Once = Once::new();
        SWEEP.call_once(sweep);

        let name =
            format!("{OURS}{}-{}-{prefix}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        ip(&["netns", "add", &name]);
        let path = Path::new(NAMES).join(&name);
        let file = File::open(&path).expect("the namespace just added opens");
        let namespace = Self(Arc::new(Inner { name, path, file }));
        namespace.batch("link set lo up\n");
        for (key, value) in QUIET {
            namespace.sysctl(key, value);
        }
        namespace
    }

    /// Its name, as `ip -n` takes it.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its file, as `nsenter --net=` takes it.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Runs `work` on a thread inside and returns its result, or its panic. Sockets opened there
    /// stay in the namespace wherever they are used later; so do child processes.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let result = thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.enter();
                    work()
                })
                .join()
        });
        result.unwrap_or_else(|payload| panic::resume_unwind(payload))
    }

    /// Like [`Self::run`] without waiting for the end.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let namespace = self.clone();
        thread::spawn(move || {
            namespace.enter();
            work()
        })
    }

    /// A command whose child runs inside, with the mounts of this process. The child's process id
    /// is the program's own (`nsenter` replaces itself).
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut net = std::ffi::OsString::from("--net=");
        net.push(self.path());
        let mut command = Command::new("nsenter");
        command.arg(net).arg("--").arg(program);
        command
    }

    /// Runs lines of `ip -batch` inside; panics with `ip`'s message if one fails.
    pub fn batch(&self, lines: &str) {
        let mut child = Command::new("ip")
            .args(["-n", self.name(), "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ip (iproute2) starts");
        let mut input = child.stdin.take().expect("stdin is piped");
        input.write_all(lines.as_bytes()).expect("ip reads its batch");
        drop(input);
        let output = child.wait_with_output().expect("ip ends");
        assert!(
            output.status.success(),
            "ip -n {} -batch: {}\n{lines}",
            self.name(),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Sets a sysctl inside, by its path below `/proc/sys`.
    pub fn sysctl(&self, key: &str, value: &str) {
        let path = Path::new("/proc/sys").join(key);
        self.run(|| fs::write(&path, value))
            .unwrap_or_else(|error| panic!("sysctl {key} = {value}: {error}"));
    }

    /// Reads a sysctl inside, by its path below `/proc/sys`.
    pub fn read_sysctl(&self, key: &str) -> String {
        let path = Path::new("/proc/sys").join(key);
        let value = self.run(|| fs::read_to_string(&path));
        value.unwrap_or_else(|error| panic!("sysctl {key}: {error}")).trim().to_owned()
    }

    /// Process ids running inside, without this process (some of whose threads may be there).
    pub fn processes(&self) -> Vec<u32> {
        processes_in(self.path())
    }

    fn enter(&self) {
        setns(&self.0.file, CloneFlags::CLONE_NEWNET).expect("the namespace can be entered");
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Runs `ip`; panics with its message if it fails.
pub(crate) fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("ip (iproute2) starts");
    assert!(
        output.status.success(),
        "ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The process id in a name of ours, if it is one: `PREFIX PID - anything`.
pub(crate) fn owner(name: &str, prefix: &str) -> Option<u32> {
    name.strip_prefix(prefix)?.split('-').next()?.parse().ok()
}

/// Whether a process of this id exists.
pub(crate) fn is_alive(process: u32) -> bool {
    Path::new(&format!("/proc/{process}")).exists()
}

/// Sends `signal` to a process. False when there is none.
pub(crate) fn signal(process: u32, signal: Signal) -> bool {
    // 0 and negative ids name groups; none of ours is one.
    i32::try_from(process).is_ok_and(|id| id > 1 && kill(Pid::from_raw(id), signal).is_ok())
}

/// Removes namespaces of ours whose process is dead.
fn sweep() {
    let Ok(names) = fs::read_dir(NAMES) else {
        return;
    };
    for entry in names.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if owner(&name, OURS).is_some_and(|process| !is_alive(process)) {
            remove(&name);
        }
    }
}

/// Kills what runs in a namespace of ours and removes it. Quiet: also runs while unwinding.
fn remove(name: &str) {
    let path = Path::new(NAMES).join(name);
    let deadline = Deadline::after(Duration::from_secs(2));
    loop {
        let processes = processes_in(&path);
        if processes.is_empty() || deadline.is_over() {
            break;
        }
        for process in processes {
            signal(process, Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(5));
    }
    drop(Command::new("ip").args(["netns", "del", name]).output());
}

fn processes_in(namespace: &Path) -> Vec<u32> {
    let (Ok(wanted), Ok(entries)) = (fs::metadata(namespace), fs::read_dir("/proc")) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|process| *process != process::id())
        .filter(|process| {
            // A zombie has no namespace any more, so it does not keep one busy.
            fs::metadata(format!("/proc/{process}/ns/net"))
                .is_ok_and(|found| found.ino() == wanted.ino() && found.dev() == wanted.dev())
        })
        .collect()
}
