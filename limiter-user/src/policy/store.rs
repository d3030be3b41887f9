//! Where limits and bans are kept that several hosts share.
//!
//! Serialisable like the rest of the request half. The password is here as it is, because the
//! process that uses it can read no file; it shows in no output.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::listener::SecretBytes;

/// A Redis or Valkey server that hosts share.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct StorePolicy {
    /// Name or address; an IPv6 one without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Number of the database.
    pub database: u16,
    /// ACL user; `None`: the default one.
    pub user: Option<String>,
    /// Of the user.
    pub password: Option<SecretBytes>,
    /// Certificates (DER) that the server's must lead to; `None`: without TLS.
    pub roots: Option<Vec<Vec<u8>>>,
    /// How long a request waits for it.
    pub timeout: Duration,
    /// What holds while it does not answer.
    pub on_failure: OnFailure,
}

impl StorePolicy {
    /// A server without password, TLS or anything else that is not said.
    pub fn plain(host: &str, port: u16) -> Self {
        Self {
            host: host.to_owned(),
            port,
            database: 0,
            user: None,
            password: None,
            roots: None,
            timeout: DEFAULT_TIMEOUT,
            on_failure: OnFailure::default(),
        }
    }
}

/// How long a request waits for the store where nothing is said.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_millis(100);

/// The URL, without user and password.
impl fmt::Display for StorePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, database, .. } = self;
        let scheme = if self.roots.is_some() { "rediss" } else { "redis" };
        let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{scheme}://{open}{host}{close}:{port}")?;
        if *database > 0 { write!(f, "/{database}") } else { Ok(()) }
    }
}

/// What holds for limits while the store does not answer.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// Each host counts for itself.
    #[default]
    Local,
    /// Nothing is limited.
    Open,
    /// Whatever is limited is refused.
    Closed,
}

impl OnFailure {
    /// As the configuration writes it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Open => "open",
            Self::Closed => "closed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_in_no_output() {
        let mut policy = StorePolicy::plain("2001:db8::1", 6379);
        policy.password = Some(SecretBytes::new(b"hunter2".to_vec()));
        policy.database = 3;
        assert_eq!(policy.to_string(), "redis://[2001:db8::1]:6379/3");
        let bytes = format!("{:?}", b"hunter2");
        let shown = format!("{policy:?}");
        assert!(!shown.contains("hunter2") && !shown.contains(bytes.trim_matches(['[', ']'])));
    }
}
