//! A proxy on threads of this process, its agent's end of the link, and a client.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::ExitCode,
    thread::JoinHandle,
    time::Duration,
};

use crate::{
    link::{FromProxy, Hello, Observation, ObservedOutcome, ProxyCounters, ToProxy, codec::Link},
    policy::{
        HttpPolicy,
        listener::{ListenAddress, ListenerPolicy},
    },
    refusal::Refusal,
};

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(10);

/// A proxy and the agent's end of its link.
pub(super) struct Proxy {
    pub(super) address: SocketAddr,
    pub(super) agent: Agent,
    thread: JoinHandle<std::io::Result<ExitCode>>,
}

/// The agent's end of a link, blocking.
pub(super) struct Agent {
    runtime: tokio::runtime::Runtime,
    link: Link,
    listening: Vec<ListenAddress>,
    pub(super) observations: Vec<Observation>,
    pub(super) counters: ProxyCounters,
    pub(super) lost: u64,
}

impl Agent {
    pub(super) fn new(socket: UnixStream) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let link = runtime.block_on(async { Link::from_std(socket).unwrap() });
        let mut agent = Self {
            runtime,
            link,
            listening: Vec::new(),
            observations: Vec::new(),
            counters: ProxyCounters::default(),
            lost: 0,
        };
        agent.send(&ToProxy::Hello(Hello::of_this_process("test")), &[]);
        assert!(matches!(agent.recv(), (FromProxy::Hello(hello), _) if hello.is_compatible()));
        agent
    }

    pub(super) fn send(&mut self, message: &ToProxy, descriptors: &[BorrowedFd<'_>]) {
        self.runtime.block_on(self.link.send(message, descriptors)).unwrap();
    }

    pub(super) fn recv(&mut self) -> (FromProxy, Vec<OwnedFd>) {
        self.try_recv(PATIENCE).expect("a message from the proxy")
    }

    fn try_recv(&mut self, patience: Duration) -> Option<(FromProxy, Vec<OwnedFd>)> {
        self.runtime.block_on(async {
            tokio::time::timeout(patience, self.link.recv()).await.ok()?.unwrap()
        })
    }

    /// Receives until `wanted` finds something, keeping observations and counters.
    pub(super) fn until<T>(
        &mut self,
        wanted: impl Fn(&Self, &FromProxy, &mut Vec<OwnedFd>) -> Option<T>,
    ) -> T {
        loop {
            let (message, mut descriptors) = self.recv();
            match &message {
                FromProxy::Observations { observations, lost } => {
                    self.observations.extend(observations.iter().cloned());
                    self.lost += lost;
                }
                FromProxy::Counters(counters) => self.counters = (**counters).clone(),
                _ => {}
            }
            if let Some(found) = wanted(self, &message, &mut descriptors) {
                return found;
            }
        }
    }

    /// Lets the proxy accept from a socket in place of those before, without TLS unless a policy
    /// says otherwise.
    pub(super) fn listen(&mut self, address: impl Into<ListenAddress>, socket: BorrowedFd<'_>) {
        let address = address.into();
        self.listening.push(address.clone());
        self.send(&ToProxy::Listeners(vec![address]), &[socket]);
    }

    pub(super) fn apply(&mut self, generation: u64, policy: &HttpPolicy) {
        let mut policy = Box::new(policy.clone());
        for address in &self.listening {
            if !policy.listeners.iter().any(|listener| listener.address == *address) {
                policy.listeners.push(ListenerPolicy::plain(address.clone()));
            }
        }
        self.send(&ToProxy::Policy { generation, policy }, &[]);
        self.until(|_, message, _| {
            (*message == FromProxy::PolicyApplied { generation }).then_some(())
        });
    }

    /// Waits for an observation of this outcome.
    pub(super) fn observe(&mut self, outcome: ObservedOutcome) -> Observation {
        let find = |agent: &Self| {
            let mut all = agent.observations.iter();
            all.find(|observation| observation.outcome == outcome).cloned()
        };
        match find(self) {
            Some(found) => found,
            None => self.until(|agent, _, _| find(agent)),
        }
    }

    pub(super) fn refused(&mut self, refusal: Refusal) -> Observation {
        self.observe(ObservedOutcome::Refused(refusal))
    }
}

impl Proxy {
    pub(super) fn start(policy: &HttpPolicy) -> Self {
        Self::start_with(policy, 2)
    }

    pub(super) fn start_with(policy: &HttpPolicy, threads: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let thread = std::thread::spawn(move || crate::proxy::serve(theirs, threads));
        let mut agent = Agent::new(ours);
        agent.listen(address, listener.as_fd());
        agent.apply(1, policy);
        Self { address, agent, thread }
    }

    pub(super) fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// One request on a connection of its own.
    pub(super) fn get(&self, lines: &str) -> Reply {
        self.connect().send(lines)
    }

    /// Splits into the agent's end and what waits for the proxy's end.
    pub(super) fn split(self) -> (Agent, JoinHandle<std::io::Result<ExitCode>>) {
        (self.agent, self.thread)
    }

    pub(super) fn drain(mut self) -> ProxyCounters {
        self.agent.send(&ToProxy::Drain, &[]);
        let counters = loop {
            match self.agent.try_recv(PATIENCE) {
                Some((FromProxy::Counters(counters), _)) => self.agent.counters = *counters,
                Some(_) => {}
                None => break self.agent.counters,
            }
        };
        self.thread.join().unwrap().unwrap();
        counters
    }
}

/// A client's connection.
pub(super) struct Client(pub(super) BufReader<TcpStream>);

/// A response.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
}

impl Reply {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.iter().filter(|(known, _)| known == name);
        all.next().map(|(_, value)| value.as_str())
    }
}

impl Client {
    pub(super) fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_nodelay(true).unwrap();
        Self(BufReader::new(socket))
    }

    /// Sends a request line with `Host` and these headers (lines end in `\n`), without a body.
    pub(super) fn send(&mut self, lines: &str) -> Reply {
        let (line, headers) = lines.split_once('\n').unwrap_or((lines, ""));
        let headers = headers.replace('\n', "\r\n");
        self.write(&format!("{line} HTTP/1.1\r\nHost: a.test\r\n{headers}\r\n"));
        self.read()
    }

    pub(super) fn write(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    pub(super) fn read(&mut self) -> Reply {
        self.try_read().expect("a response")
    }

    pub(super) fn try_read(&mut self) -> Option<Reply> {
        let mut line = String::new();
        if self.0.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let status = line.split(' ').nth(1)?.trim().parse().ok()?;
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).ok()?;
            match line.trim_end().split_once(": ") {
                Some((name, value)) => headers.push((name.to_lowercase(), value.to_owned())),
                None if line.trim_end().is_empty() => break,
                None => headers.push((line.trim_end().to_owned(), String::new())),
            }
        }
        let mut reply = Reply { status, headers, body: String::new() };
        let length = reply.header("content-length").and_then(|text| text.parse().ok());
        if reply.header("transfer-encoding") == Some("chunked") {
            reply.body = self.read_chunks();
        } else if let Some(length) = length {
            let mut body = vec![0; length];
            self.0.read_exact(&mut body).ok()?;
            reply.body = String::from_utf8_lossy(&body).into_owned();
        }
        Some(reply)
    }

    pub(super) fn read_chunks(&mut self) -> String {
        let mut body = String::new();
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            let length = usize::from_str_radix(line.trim(), 16).unwrap();
            let mut chunk = vec![0; length + 2];
            self.0.read_exact(&mut chunk).unwrap();
            if length == 0 {
                return body;
            }
            body.push_str(&String::from_utf8_lossy(&chunk[..length]));
        }
    }

    pub(super) fn is_closed(&mut self) -> bool {
        !matches!(self.0.read(&mut [0; 1]), Ok(1))
    }
}
