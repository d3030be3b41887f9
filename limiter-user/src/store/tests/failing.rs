//! Servers that refuse, stand still or are not there, seen by one core: every question ends in time,
//! what is wrong is told once, and all is well again by itself.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    process::{Child, Command, Stdio},
    rc::Rc,
};

use tokio::{sync::mpsc, time::timeout};

use super::*;
use crate::{
    clock,
    link::StoreNotice,
    policy::listener::SecretBytes,
    store::{Health, Line, StoreError},
};

/// What a request may wait, and what a slow machine adds to it.
const PATIENCE: Duration = Duration::from_millis(100);
const SLOW: Duration = Duration::from_millis(400);

/// Until what happened is told: pauses between attempts get longer up to five seconds.
const SOON: Duration = Duration::from_secs(15);

/// One core's way to a store.
struct Core {
    line: Rc<Line>,
    health: Arc<Health>,
    notices: mpsc::Receiver<StoreNotice>,
    limit: SharedLimit,
}

impl Core {
    fn new(policy: StorePolicy) -> Self {
        let policy = StorePolicy { timeout: PATIENCE, ..policy };
        let (sender, notices) = mpsc::channel(16);
        let health = Arc::new(Health::new(sender));
        let target = Arc::new(Target::new(&policy).unwrap());
        let line = Line::start(target, Arc::clone(&health), 0, 7);
        let limit =
            SharedLimit::new("a", bucket(1_000_000, Duration::from_secs(1), 9), true, false);
        Self { line, health, notices, limit }
    }

    async fn charge(&self) -> Result<Charged, StoreError> {
        let since_ns = clock::monotonic_ns();
        let answer = self.line.charge(&[Ask { limit: &self.limit, key: b"x", cost: 1 }]).await;
        let took = elapsed(since_ns);
        assert!(took < PATIENCE + SLOW, "{took:?}");
        answer
    }

    async fn is_up(&self) {
        let up = async {
            while self.charge().await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(SOON, up).await.expect("the store is used");
        assert!(self.health.counts().is_usable);
    }

    /// Asks until it is told that the store is lost, with one of these words, and nothing else is.
    async fn is_lost(&mut self, words: &[&str]) {
        let told = async {
            loop {
                // A question may be under way when it happens; then none is asked any more.
                drop(self.charge().await);
                if let Ok(notice) = self.notices.try_recv() {
                    return notice;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let told = timeout(SOON, told).await.expect("it is told");
        let StoreNotice::Lost(why) = &told else { panic!("{told:?}") };
        assert!(words.iter().any(|word| why.contains(word)), "{why}");
        let before = self.health.counts();
        assert!(!before.is_usable);
        for _ in 0..20 {
            let since_ns = clock::monotonic_ns();
            if self.charge().await == Err(StoreError::Absent) {
                assert!(elapsed(since_ns) < PATIENCE, "nothing is waited for");
            }
        }
        let after = self.health.counts();
        assert_eq!(after.absent + after.asked, before.absent + before.asked + 20);
        assert!(after.failed > before.failed || after.absent > before.absent);
    }

    async fn is_back(&mut self) {
        self.is_up().await;
        let told = timeout(SOON, self.notices.recv()).await.expect("it is told");
        assert_eq!(told, Some(StoreNotice::Back));
        assert!(self.notices.try_recv().is_err(), "once");
    }
}

fn elapsed(since_ns: u64) -> Duration {
    Duration::from_nanos(clock::monotonic_ns().saturating_sub(since_ns))
}

impl Server {
    fn cli(&self, words: &[&str]) -> Command {
        let mut command = Command::new("redis-cli");
        command.args(["--no-auth-warning", "-p", &self.port().to_string()]).args(words);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        command
    }

    fn tell(&self, words: &[&str]) {
        let output = self.cli(words).output().expect("redis-cli is installed with the server");
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said.trim(), "OK", "{words:?}");
    }
}

/// A server of ours: what it answers to whatever is asked; `None`: nothing.
fn pretender(answer: Option<&'static str>) -> StorePolicy {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let policy = StorePolicy::plain("127.0.0.1", listener.local_addr().unwrap().port());
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                while socket.read(&mut bytes).is_ok_and(|count| count > 0) {
                    if let Some(answer) = answer {
                        socket.write_all(answer.as_bytes()).ok();
                    }
                }
            });
        }
    });
    policy
}

#[test]
fn a_server_without_memory_is_lost_until_it_has_some() {
    run(async {
        let server = Server::start();
        let mut core = Core::new(server.policy());
        core.is_up().await;
        server.tell(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
        server.tell(&["CONFIG", "SET", "maxmemory", "1"]);
        core.is_lost(&["OOM"]).await;
        server.tell(&["CONFIG", "SET", "maxmemory", "0"]);
        core.is_back().await;
    });
}

#[test]
fn a_replica_is_no_store_until_it_is_promoted() {
    run(async {
        let server = Server::start();
        let mut core = Core::new(server.policy());
        core.is_up().await;
        server.tell(&["REPLICAOF", "127.0.0.1", "1"]);
        core.is_lost(&["ReadOnly", "READONLY"]).await;
        server.tell(&["REPLICAOF", "NO", "ONE"]);
        core.is_back().await;
    });
}

#[test]
fn a_script_of_others_that_does_not_end_holds_nobody_up() {
    run(async {
        let server = Server::start_with(&["--lua-time-limit", "300"]);
        let mut core = Core::new(server.policy());
        core.is_up().await;
        let mut endless: Child =
            server.cli(&["EVAL", "while true do end", "0"]).spawn().expect("redis-cli starts");
        core.is_lost(&["no answer in time", "BUSY"]).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        server.tell(&["SCRIPT", "KILL"]);
        core.is_back().await;
        endless.wait().unwrap();
    });
}

#[test]
fn a_server_that_forgot_its_scripts_is_not_lost() {
    run(async {
        let server = Server::start();
        let mut core = Core::new(server.policy());
        core.is_up().await;
        for _ in 0..3 {
            server.tell(&["SCRIPT", "FLUSH"]);
            assert!(core.charge().await.is_ok());
        }
        assert!(core.notices.try_recv().is_err());
        assert_eq!(core.health.counts().failed, 0);
    });
}

#[test]
fn a_server_that_loads_or_says_nothing_is_lost() {
    run(async {
        let loading = "-LOADING Redis is loading the dataset in memory\r\n";
        Core::new(pretender(Some(loading))).is_lost(&["Loading"]).await;
        Core::new(pretender(Some("what?\r\n"))).is_lost(&["connection", "it answers"]).await;
        Core::new(pretender(None)).is_lost(&["no answer in time"]).await;
    });
}

#[test]
fn a_password_that_is_wrong_and_then_right() {
    run(async {
        let server = Server::start_with(&["--requirepass", "correct-horse"]);
        let password = Some(SecretBytes::new(b"battery-staple".to_vec()));
        let mut core = Core::new(StorePolicy { password, ..server.policy() });
        core.is_lost(&["authentication failed"]).await;
        server.tell(&["-a", "correct-horse", "CONFIG", "SET", "requirepass", "battery-staple"]);
        core.is_back().await;
    });
}

#[test]
fn a_user_needs_to_be_allowed_what_is_documented_and_no_more() {
    run(async {
        let server = Server::start();
        let documented = include_str!("../../../../docs/CONFIGURATION.md");
        let rules =
            documented.split("An ACL user needs `").nth(1).and_then(|it| it.split('`').next());
        let rules = rules.expect("the documentation says what it needs");
        let grant = |rules: &str| {
            let words = ["ACL", "SETUSER", "limiter"].into_iter().chain(rules.split(' '));
            server.tell(&words.collect::<Vec<_>>());
        };
        grant("on >hunter2");
        grant(rules);
        let password = Some(SecretBytes::new(b"hunter2".to_vec()));
        let user = Some("limiter".to_owned());
        let mut core = Core::new(StorePolicy { user, password, ..server.policy() });
        core.is_up().await;
        grant("-set");
        core.is_lost(&["The user executing the script", "ACL failure"]).await;
        grant("+set");
        core.is_back().await;
    });
}

#[test]
fn a_certificate_of_an_authority_is_verified() {
    let issue = |authority: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut own = rcgen::CertificateParams::new(Vec::new()).unwrap();
        own.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        own.distinguished_name.push(rcgen::DnType::CommonName, authority);
        let root = own.self_signed(&key).unwrap();
        (root.der().to_vec(), rcgen::Issuer::new(own, key))
    };
    let (ours, issuer) = issue("ours");
    let (theirs, _) = issue("theirs");
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let directory = std::env::temp_dir().join(format!("limiter-store-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    std::fs::write(path("store.pem"), leaf.pem()).unwrap();
    std::fs::write(path("store.key"), key.serialize_pem()).unwrap();
    run(async {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let _server = Server::start_with(&[
            "--tls-port",
            &port.to_string(),
            "--tls-cert-file",
            &path("store.pem"),
            "--tls-key-file",
            &path("store.key"),
            "--tls-auth-clients",
            "no",
        ]);
        let policy = |root: &[u8]| StorePolicy {
            roots: Some(vec![root.to_vec()]),
            ..StorePolicy::plain("127.0.0.1", port)
        };
        Core::new(policy(&ours)).is_up().await;
        Core::new(policy(&theirs)).is_lost(&["UnknownIssuer"]).await;
        // Without TLS it is not spoken to as if.
        Core::new(StorePolicy::plain("127.0.0.1", port))
            .is_lost(&["connection", "it answers"])
            .await;
    });
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn the_first_requests_wait_for_the_first_connection() {
    let limit = SharedLimit::new("a", bucket(1, Duration::from_hours(1), 1), true, false);
    let start = |policy: &StorePolicy| {
        let (notices, _) = mpsc::channel(4);
        let target = Arc::new(Target::new(policy).unwrap());
        Line::start(target, Arc::new(Health::new(notices)), 0, 1)
    };
    run(async {
        let server = Server::start();
        for is_allowed in [true, false] {
            let line = start(&server.policy());
            let charged = line.charge(&[Ask { limit: &limit, key: b"k", cost: 1 }]).await.unwrap();
            assert_eq!(charged.decisions[0].allowed, is_allowed);
        }
        // Nobody listens: it does not wait for longer than it takes to know that.
        let policy =
            StorePolicy { timeout: Duration::from_mins(1), ..StorePolicy::plain("127.0.0.1", 1) };
        let line = start(&policy);
        let asks = [Ask { limit: &limit, key: b"k", cost: 1 }];
        let charged = timeout(Duration::from_secs(5), line.charge(&asks)).await;
        assert_eq!(charged.unwrap().unwrap_err(), StoreError::Absent);
    });
}
