//! The configuration of the demonstration, its addresses, and where its files are. Text out; it
//! never reads anything.

use std::path::{Path, PathBuf};

use toml::Value;

/// The server's end of the wire.
pub(super) const INTERFACE: &str = "limiter0";
pub(super) const SERVER_V4: &str = "192.0.2.1";
pub(super) const SERVER_V6: &str = "2001:db8::1";
pub(super) const PORT: u16 = 8080;
/// Where the sample API listens, inside the server's namespace.
pub(super) const SAMPLE: &str = "127.0.0.1:3000";

// Clients, from the ranges for documentation (RFC 5737, RFC 3849). IPv6 sources count by /64.
pub(super) const HONEST_V4: &str = "192.0.2.10";
pub(super) const HONEST_V6: &str = "2001:db8:a::10";
pub(super) const ANONYMOUS: &str = "192.0.2.20";
pub(super) const BROWSER: &str = "2001:db8:b::30";
pub(super) const HASTY: &str = "2001:db8:c::40";
pub(super) const SMUGGLER: &str = "192.0.2.50";
pub(super) const GUESSER: &str = "192.0.2.60";
pub(super) const DENIED: &str = "198.51.100.99";
pub(super) const FLOODER: &str = "203.0.113.77";
/// Left alone, for whoever wants to try.
pub(super) const VISITOR: &str = "192.0.2.70";

/// Requests of one client to the public route in a minute.
pub(super) const REQUESTS_PER_MINUTE: u32 = 10;
/// Packets of one source.
pub(super) const PACKETS_PER_SECOND: u32 = 500;
pub(super) const PACKETS_BURST: u32 = 1_000;
/// First ban.
pub(super) const BAN_SECONDS: u64 = 5;
/// Wrong keys that make a ban: threshold by score.
pub(super) const WRONG_KEYS: u32 = 10;
pub(super) const ORIGIN: &str = "https://app.example.com";

/// Longest path of a Unix socket that the kernel takes (`sun_path`, with its end).
const SOCKET_PATH_LIMIT: usize = 108;
/// The longest name of a socket in the runtime directory, and some room.
const SOCKET_NAME_LENGTH: usize = 24;

/// Files of one demonstration.
#[derive(Debug, Clone)]
pub(super) struct Files {
    pub(super) directory: PathBuf,
}

impl Files {
    pub(super) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_path_buf() }
    }

    pub(super) fn config(&self) -> PathBuf {
        self.directory.join("limiter.toml")
    }

    pub(super) fn keys(&self) -> PathBuf {
        self.directory.join("keys.toml")
    }

    /// The honest client's key.
    pub(super) fn honest_key(&self) -> PathBuf {
        self.directory.join("honest.key")
    }

    /// What the agent writes to standard error.
    pub(super) fn agent_log(&self) -> PathBuf {
        self.directory.join("agent.log")
    }

    pub(super) fn security_log(&self) -> PathBuf {
        self.directory.join("security.log")
    }

    /// In the directory, or below `/run` where the path would be too long for a socket.
    pub(super) fn runtime(&self) -> PathBuf {
        let beside = self.directory.join("run");
        if beside.as_os_str().len() + SOCKET_NAME_LENGTH <= SOCKET_PATH_LIMIT {
            return beside;
        }
        let name: u64 = self.directory.as_os_str().as_encoded_bytes().iter().fold(
            0xcbf2_9ce4_8422_2325,
            |hash, byte| {
                // FNV-1a: short, stable, and nobody chooses the path to collide.
                (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
            },
        );
        PathBuf::from(format!("/run/limiter-demo-{name:016x}"))
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.runtime().join("control.sock")
    }
}

/// The configuration file's text.
pub(super) fn text(files: &Files) -> String {
    let path = |path: PathBuf| Value::from(path.to_string_lossy().into_owned());
    format!(
        r#"# Written by `cargo xtask run`. What the demonstration shows, as an example.

[agent]
state = {state}
runtime = {runtime}
pins = {pins}

[kernel]
interfaces = ["{INTERFACE}"]
attach = "native"
deny = ["198.51.100.0/24"]

[kernel.limits]                        # per source
packets = "{PACKETS_PER_SECOND}/s"
packets_burst = {PACKETS_BURST}

[http]
timeouts = {{ drain = "1s" }}

[[http.listener]]
address = "{SERVER_V4}:{PORT}"
[[http.listener]]
address = "[{SERVER_V6}]:{PORT}"

[[http.upstream]]
name = "api"
servers = ["http://{SAMPLE}"]

[[http.route]]
path = "/"
auth = ["keys"]
cors = "app"
headers = "api"

[[http.route]]
path = "/public"
auth = "none"
limits = ["by-address"]
cors = "app"
headers = "api"

[auth.keys]
kind = "api_key"
keys_file = {keys}

[limits.by-address]
algorithm = "sliding_window"
rate = "{REQUESTS_PER_MINUTE}/1m"

[cors.app]
origins = ["{ORIGIN}"]
credentials = true

[headers.api]
preset = "json-api"

[escalation]                           # {WRONG_KEYS} wrong keys in a minute make a ban
scores = {{ invalid_credential = 5, malformed_request = 25 }}
threshold = 50
ban = {{ first = "{BAN_SECONDS}s", factor = 4, max = "10m" }}

[[events.sink]]
kind = "stderr"
[[events.sink]]
kind = "file"
path = {log}
"#,
        state = path(files.directory.join("state")),
        runtime = path(files.runtime()),
        pins = path(files.directory.join("pins")),
        keys = path(files.keys()),
        log = path(files.security_log()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_toml_whatever_the_path() {
        let files = Files::new(Path::new("/home/a \"b\"/demo"));
        let table: toml::Table = text(&files).parse().unwrap();
        let state = table.get("agent").and_then(|agent| agent.get("state"));
        assert_eq!(state.and_then(Value::as_str), Some("/home/a \"b\"/demo/state"));
    }

    #[test]
    fn sockets_have_paths_that_the_kernel_takes() {
        let near = Files::new(Path::new("/w/target/xtask/demo"));
        assert_eq!(near.socket(), Path::new("/w/target/xtask/demo/run/control.sock"));
        let far = Files::new(Path::new(&format!("/{}/demo", "w".repeat(90))));
        assert!(far.socket().as_os_str().len() < SOCKET_PATH_LIMIT);
        assert!(far.socket().starts_with("/run"));
        let other = Files::new(Path::new(&format!("/{}/demo", "v".repeat(90))));
        assert_ne!(far.runtime(), other.runtime());
    }
}
