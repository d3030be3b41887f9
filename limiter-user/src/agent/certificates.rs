//! Certificates, their keys, keys and revocation lists of tokens, and API keys that change on disk
//! while the agent runs.
//!
//! In: the files that the policy was read from, looked at once a second; out: the same policy with
//! what is in them now, once nobody writes them any more. What cannot be used changes nothing.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{Agent, Inner};
use crate::{
    config,
    events::Lifecycle,
    link::{ToProxy, room},
    policy::{
        HttpPolicy, Policy,
        auth::{ApiKeyPolicy, AuthKind, AuthPolicy, jwt::JwtPolicy},
        listener::TlsPolicy,
    },
};

/// How often files that cannot be used are read again before that is told: a key that comes a
/// moment after its certificate is nobody's mistake.
const ATTEMPTS: u32 = 3;

/// Device, inode, size, mode and time of the last change, of who may read it too; `None`: there is
/// no such file.
type Stamp = Option<(u64, u64, u64, u32, i64, i64)>;
type Stamps = BTreeMap<PathBuf, Stamp>;

/// What is known of the files.
#[derive(Debug, Default)]
pub(super) struct CertificateFiles {
    /// As they were when they were read, or given up.
    settled: Option<Stamps>,
    /// As they were a moment ago.
    last: Stamps,
    failures: u32,
}

impl CertificateFiles {
    /// Whether the files changed and have been left alone since the last look.
    fn have_changed(&mut self, now: Stamps) -> bool {
        let settled = self.settled.get_or_insert_with(|| now.clone());
        if *settled == now {
            self.failures = 0;
            return false;
        }
        let is_quiet = self.last == now;
        self.last = now;
        is_quiet
    }

    fn settle(&mut self) {
        self.settled = Some(self.last.clone());
        self.failures = 0;
    }

    /// Whether it is time to say that they cannot be used.
    fn fail(&mut self) -> bool {
        self.failures += 1;
        let is_enough = self.failures >= ATTEMPTS;
        if is_enough {
            self.settle();
        }
        is_enough
    }
}

impl Agent {
    /// Reads files again that were replaced, and tells the proxy.
    pub(super) fn follow_certificates(&self) {
        // Whoever changes the policy now reads them himself.
        let Ok(_turn) = self.changing.try_lock() else { return };
        let (changed, problem) = self.inner.borrow_mut().read_certificates();
        if let Some((generation, http)) = changed {
            self.tell_proxy(ToProxy::Policy { generation, policy: Box::new(http) });
            let detail = format!("generation {generation}: certificates and keys");
            self.lifecycle(Lifecycle::ConfigReloaded, detail);
        }
        if let Some(why) = problem {
            let detail = format!("certificates and keys stay as they were: {why}");
            self.lifecycle(Lifecycle::ConfigRejected, detail);
        }
    }
}

impl Inner {
    /// The policy with what changed and can be used, and why something cannot, if that is worth
    /// telling.
    fn read_certificates(&mut self) -> (Option<(u64, HttpPolicy)>, Option<String>) {
        let Some(http) = self.policy.http.as_ref() else { return (None, None) };
        let tls: Vec<&TlsPolicy> = tls_policies(http).collect();
        let jwt: Vec<&JwtPolicy> = jwt_policies(http).collect();
        let keys: Vec<&ApiKeyPolicy> = http.auth.iter().filter_map(AuthPolicy::api_keys).collect();
        let of_tls = tls.iter().flat_map(|policy| policy.files());
        let of_keys = keys.iter().filter_map(|policy| policy.file.as_deref());
        let files = of_tls.chain(jwt.iter().flat_map(|policy| policy.files())).chain(of_keys);
        let stamps = files.map(|file| (file.to_owned(), stamp(file))).collect();
        if !self.certificates.have_changed(stamps) {
            return (None, None);
        }
        let (fresh, unusable) = Fresh::read(&tls, &jwt, &keys);
        let mut renewed = self.policy.clone();
        refresh(&mut renewed, &fresh);
        // All of it, or nothing: a proxy that cannot be told serves nobody.
        let too_large = renewed.http.as_ref().and_then(|http| room::check(http).err());
        if let Some(why) = too_large {
            return (None, self.certificates.fail().then_some(why));
        }
        let problem = match unusable {
            None => {
                self.certificates.settle();
                None
            }
            Some(error) => self.certificates.fail().then(|| format!("{error:#}")),
        };
        let before = http.clone();
        // What a trial would bring back is read from the same files.
        let on_trial = self.trial.as_mut().map(|trial| &mut trial.before);
        for policy in [&mut self.policy, &mut self.configured].into_iter().chain(on_trial) {
            refresh(policy, &fresh);
        }
        let changed = self.policy.http.as_ref().filter(|http| **http != before).cloned();
        let generation = self.generation + u64::from(changed.is_some());
        self.generation = generation;
        (changed.map(|http| (generation, http)), problem)
    }
}

fn tls_policies(http: &HttpPolicy) -> impl Iterator<Item = &TlsPolicy> {
    http.listeners.iter().filter_map(|listener| listener.tls.as_ref())
}

fn jwt_policies(http: &HttpPolicy) -> impl Iterator<Item = &JwtPolicy> {
    http.auth.iter().filter_map(|scheme| match &scheme.kind {
        AuthKind::Jwt(jwt) => Some(jwt),
        _ => None,
    })
}

/// What the files hold now.
struct Fresh {
    tls: Vec<TlsPolicy>,
    jwt: Vec<JwtPolicy>,
    keys: Vec<ApiKeyPolicy>,
}

impl Fresh {
    /// What can be used, and the first error: a certificate that is broken keeps no token from
    /// being revoked.
    fn read(
        tls: &[&TlsPolicy],
        jwt: &[&JwtPolicy],
        keys: &[&ApiKeyPolicy],
    ) -> (Self, Option<anyhow::Error>) {
        let mut first = None;
        let mut note = |error| {
            first.get_or_insert(error);
        };
        let tls = tls.iter().filter_map(|one| config::tls::reread(one).map_err(&mut note).ok());
        let tls = tls.collect();
        let jwt = jwt.iter().map(|one| config::jwt::reread(one, &mut note)).collect();
        let keys =
            keys.iter().filter_map(|one| config::api_key::reread(one).map_err(&mut note).ok());
        let keys = keys.collect();
        (Self { tls, jwt, keys }, first)
    }
}

/// Puts in what was read from the same files.
fn refresh(policy: &mut Policy, fresh: &Fresh) {
    let schemes = policy.http.iter_mut().flat_map(|http| &mut http.auth);
    for scheme in schemes {
        match &mut scheme.kind {
            AuthKind::Jwt(jwt) => {
                if let Some(fresh) = fresh.jwt.iter().find(|fresh| fresh.is_of_same_files(jwt)) {
                    *jwt = fresh.clone();
                }
            }
            AuthKind::ApiKey(keys) => {
                let same = |fresh: &&ApiKeyPolicy| fresh.is_of_same_file(keys);
                if let Some(fresh) = fresh.keys.iter().find(same) {
                    *keys = fresh.clone();
                }
            }
            _ => {}
        }
    }
    let listeners = policy.http.iter_mut().flat_map(|http| &mut http.listeners);
    for tls in listeners.filter_map(|listener| listener.tls.as_mut()) {
        let same = |one: &&TlsPolicy| {
            one.files().eq(tls.files())
                && one.min_version == tls.min_version
                && one.clients.as_ref().map(|clients| clients.required)
                    == tls.clients.as_ref().map(|clients| clients.required)
        };
        if let Some(fresh) = fresh.tls.iter().find(same) {
            *tls = fresh.clone();
        }
    }
}

fn stamp(file: &Path) -> Stamp {
    let found = fs::metadata(file).ok()?;
    let changed = (found.ctime(), found.ctime_nsec());
    Some((found.dev(), found.ino(), found.size(), found.mode(), changed.0, changed.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamps(size: u64) -> Stamps {
        [(PathBuf::from("a"), Some((0, 0, size, 0, 0, 0)))].into()
    }

    #[test]
    fn a_key_that_was_refused_is_read_again_with_another_mode() {
        use std::os::unix::fs::PermissionsExt as _;
        let path = std::env::temp_dir().join(format!("limiter-stamp-{}", std::process::id()));
        fs::write(&path, "key").unwrap();
        let stamps = [0o644, 0o600].map(|mode| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            stamp(&path).unwrap()
        });
        fs::remove_file(&path).unwrap();
        assert_ne!(stamps[0], stamps[1]);
        assert_eq!(stamp(&path), None);
    }

    #[test]
    fn files_are_read_when_they_are_left_alone() {
        let mut files = CertificateFiles::default();
        assert!(!files.have_changed(stamps(1)), "as they were read at the start");
        assert!(!files.have_changed(stamps(2)), "perhaps they are still written");
        assert!(!files.have_changed(stamps(3)));
        assert!(files.have_changed(stamps(3)));
        files.settle();
        assert!(!files.have_changed(stamps(3)));
        assert!(!files.have_changed(stamps(4)));
        for attempt in 1..=ATTEMPTS {
            assert!(files.have_changed(stamps(4)));
            assert_eq!(files.fail(), attempt == ATTEMPTS);
        }
        assert!(!files.have_changed(stamps(4)), "told once");
    }
}
