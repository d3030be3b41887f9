//! A fake agent behind a real control socket, for tests of both its sides.

use std::{
    cell::{Cell, RefCell},
    fs,
    net::IpAddr,
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    sync::mpsc,
    thread,
    time::Duration,
};

use ipnet::IpNet;

use super::Server;
use crate::{
    admin::{
        Backend, Listing,
        client::Client,
        view::{
            BanRequest, BanView, Failure, ListChange, ListKind, ListOrigin, ListsView, PacketQuery,
            ReloadView, RequestQuery, SourceSort, SourceView, StatusView, TopView, WhyView,
        },
    },
    events::stream::EventStream,
};

struct Fake {
    bans: RefCell<Vec<BanView>>,
    events: Arc<EventStream>,
    looks: Cell<u64>,
}

impl Backend for Fake {
    fn status(&self) -> StatusView {
        StatusView { version: "1".into(), state: "starting".into(), ..StatusView::default() }
    }

    async fn sources(&self, sort: SourceSort, limit: usize) -> Result<Vec<SourceView>, Failure> {
        tokio::task::yield_now().await;
        Err(Failure::internal(format!("{} {limit}", sort.label())))
    }

    fn top(&self, _sort: SourceSort, _limit: usize) -> Result<TopView, Failure> {
        let passes = self.looks.get() + 1;
        self.looks.set(passes);
        Ok(TopView { passes, clock_milliseconds: 1000 * passes, ..TopView::default() })
    }

    fn ban(&self, request: &BanRequest) -> Result<BanView, Failure> {
        if request.prefix.prefix_len() == 0 && !request.force {
            return Err(Failure::refused("everything"));
        }
        let ban = BanView {
            prefix: request.prefix,
            scope: request.scope,
            seconds_left: request.seconds,
            reason: request.reason.clone(),
            origin: "manual".into(),
            packets: 0,
            not_saved: None,
        };
        self.bans.borrow_mut().push(ban.clone());
        Ok(ban)
    }

    fn add_ban(&self, request: &BanRequest) -> Result<(), Failure> {
        self.ban(request).map(drop)
    }

    async fn saved(&self) -> Result<(), String> {
        Ok(())
    }

    fn must_wait(&self) -> bool {
        false
    }

    fn unban(&self, prefix: IpNet) -> Result<usize, Failure> {
        let mut bans = self.bans.borrow_mut();
        let before = bans.len();
        bans.retain(|ban| !prefix.contains(&ban.prefix));
        Ok(before - bans.len())
    }

    fn bans(&self) -> Result<Vec<BanView>, Failure> {
        Ok(self.bans.borrow().clone())
    }

    async fn change_lists(&self, change: ListChange) -> Result<ListsView, Failure> {
        tokio::task::yield_now().await;
        let mut unforced = change.unforced.iter().flatten();
        if unforced.any(|network| network.prefix_len() == 0) {
            return Err(Failure::refused("everything"));
        }
        let changed = change.networks.iter().flatten().map(|networks| networks.len()).sum();
        Ok(ListsView { changed, ..ListsView::default() })
    }

    fn list(&self, _kind: ListKind, _origin: ListOrigin) -> Listing {
        Listing::Everywhere(["192.0.2.0/24".parse::<IpNet>().unwrap()].into_iter().collect())
    }

    fn why(&self, source: IpAddr, _packet: Option<PacketQuery>) -> Result<WhyView, Failure> {
        Err(Failure::full(source.to_string()))
    }

    fn explain(&self, request: &RequestQuery) -> Result<WhyView, Failure> {
        Err(Failure::full(request.target.clone()))
    }

    async fn reload(&self, _confirm: Option<Duration>) -> Result<ReloadView, Failure> {
        tokio::task::yield_now().await;
        Err(Failure::invalid("limiter.toml:3: kernel.mode"))
    }

    fn confirm_reload(&self) -> Result<ReloadView, Failure> {
        Err(Failure { status: 404, message: "nothing".into() })
    }

    fn detach(&self) -> Result<Vec<String>, Failure> {
        Ok(vec!["eth0".into()])
    }

    fn events(&self) -> &EventStream {
        &self.events
    }
}

/// An agent on a thread of its own, ended with the value.
pub(crate) struct Running {
    pub(super) directory: PathBuf,
    pub(crate) socket: PathBuf,
    pub(super) events: Arc<EventStream>,
    end: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Running {
    pub(crate) fn start(name: &str) -> Self {
        let directory =
            std::env::temp_dir().join(format!("limiter-admin-{name}-{}", std::process::id()));
        let socket = directory.join("run").join("control.sock");
        fs::create_dir_all(socket.parent().unwrap()).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        assert!(socket.exists(), "a stale socket");
        let events = Arc::new(EventStream::start(&[]).unwrap());
        let (end, ended) = tokio::sync::oneshot::channel();
        let (bound, wait) = mpsc::channel();
        let backend_events = Arc::clone(&events);
        let path = socket.clone();
        let thread = thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            tokio::task::LocalSet::new().block_on(&runtime, async {
                let server = Server::bind(&path).unwrap();
                bound.send(()).unwrap();
                let backend = Rc::new(Fake {
                    bans: RefCell::default(),
                    events: backend_events,
                    looks: Cell::default(),
                });
                tokio::select! {
                    _ = server.serve(backend) => {}
                    _ = ended => {}
                }
            });
        });
        wait.recv().unwrap();
        Self { directory, socket, events, end: Some(end), thread: Some(thread) }
    }

    pub(super) fn client(&self) -> Client {
        Client::new(&self.socket)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.end.take());
        drop(self.thread.take().map(thread::JoinHandle::join));
        assert!(!self.socket.exists(), "the socket is removed at the end");
        drop(fs::remove_dir_all(&self.directory));
    }
}
