//! Policies, bans, drain, and a proxy whose agent died.

use std::{
    net::{TcpListener, TcpStream},
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    time::Duration,
};

use super::{
    origin::{Origin, policy},
    support::{Agent, Client, Proxy},
};
use crate::{
    clock,
    link::{FromProxy, HttpBan, ToProxy},
    refusal::Refusal,
};

#[test]
fn a_policy_is_swapped_under_a_live_connection() {
    let origin = Origin::start();
    let mut policy = policy(&origin);
    let mut proxy = Proxy::start(&policy);
    let mut client = proxy.connect();
    assert_eq!(client.send("GET /x").status, 200);
    policy.routes.truncate(1);
    proxy.agent.apply(2, &policy);
    assert_eq!(client.send("GET /x").status, 404);
    // One that cannot be in force changes nothing and is not acknowledged.
    let mut broken = policy.clone();
    broken.routes[0].upstream = 9;
    let message = ToProxy::Policy { generation: 3, policy: Box::new(broken) };
    proxy.agent.send(&message, &[]);
    proxy.agent.apply(4, &policy);
    assert_eq!(client.send("GET /x").status, 404);
    drop(client);
    proxy.drain();
}

#[test]
fn listening_sockets_are_swapped() {
    let origin = Origin::start();
    let policy = policy(&origin);
    let mut proxy = Proxy::start(&policy);
    let mut live = proxy.connect();
    assert_eq!(live.send("GET /").status, 200);
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    proxy.agent.listen(address, socket.as_fd());
    drop(socket);
    proxy.agent.apply(2, &policy);
    assert_eq!(Client::connect(address).send("GET /").status, 200);
    assert_eq!(live.send("GET /").status, 200, "connections stay");
    std::thread::sleep(Duration::from_millis(50));
    assert!(TcpStream::connect(proxy.address).is_err(), "the one before is closed");
    drop(live);
    proxy.drain();
}

#[test]
fn bans_refuse_and_end_connections() {
    let origin = Origin::start();
    let mut proxy = Proxy::start(&policy(&origin));
    let mut live = proxy.connect();
    let mut other = proxy.connect();
    assert_eq!(live.send("GET /").status, 200);
    let ban = |expires_ns| HttpBan { prefix: "127.0.0.1/32".parse().unwrap(), expires_ns };
    proxy.agent.send(&ToProxy::HttpBans(vec![ban(u64::MAX)]), &[]);
    std::thread::sleep(Duration::from_millis(20));
    let reply = proxy.get("GET /");
    assert_eq!((reply.status, reply.header("connection")), (403, Some("close")));
    proxy.agent.refused(Refusal::Banned);
    proxy.agent.send(&ToProxy::AddHttpBans(vec![ban(0)]), &[]);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(other.send("GET /").status, 200, "lifted");
    let begun = clock::monotonic_ns();
    proxy.agent.send(&ToProxy::CloseConnections(vec!["127.0.0.0/8".parse().unwrap()]), &[]);
    assert!(live.is_closed() && other.is_closed());
    assert!(clock::monotonic_ns() - begun < 100_000_000);
    assert_eq!(proxy.get("GET /").status, 200, "only live connections ended");
    proxy.drain();
}

#[test]
fn connections_are_bounded_per_client_and_in_all() {
    let origin = Origin::start();
    let mut policy = policy(&origin);
    policy.bounds.max_connections_per_client = 2;
    let mut proxy = Proxy::start(&policy);
    let mut held: Vec<Client> = (0..2).map(|_| proxy.connect()).collect();
    for client in &mut held {
        assert_eq!(client.send("GET /").status, 200);
    }
    let mut beyond = proxy.connect();
    assert_eq!(beyond.read().status, 503);
    proxy.agent.refused(Refusal::Overloaded);
    drop(held);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(proxy.get("GET /").status, 200);
    let counters = proxy.drain();
    assert_eq!(counters.connections_refused, 1);
}

#[test]
fn draining_finishes_what_is_in_flight_or_on_its_way() {
    let origin = Origin::start();
    let mut proxy = Proxy::start(&policy(&origin));
    let (mut busy, mut idle, mut late) = (proxy.connect(), proxy.connect(), proxy.connect());
    assert_eq!(idle.send("GET /").status, 200);
    assert_eq!(late.send("GET /").status, 200);
    busy.write("GET /sleep HTTP/1.1\r\nHost: a\r\n\r\n");
    std::thread::sleep(Duration::from_millis(200));
    let begun = clock::monotonic_ns();
    proxy.agent.send(&ToProxy::Drain, &[]);
    std::thread::sleep(Duration::from_millis(100));
    let reply = late.send("GET /");
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    let (mut agent, thread) = proxy.split();
    thread.join().unwrap().unwrap();
    assert!(clock::monotonic_ns() - begun < 2_500_000_000);
    assert_eq!(busy.read().status, 200);
    assert!(idle.is_closed() && late.is_closed());
    agent.until(|agent, _, _| (agent.counters.forwarded == 4).then_some(()));
}

#[test]
fn a_proxy_without_an_agent_serves_and_is_taken_over() {
    let directory = std::env::temp_dir().join(format!("limiter-proxy-{}", std::process::id()));
    // A run before may have failed half-way.
    drop(std::fs::remove_dir_all(&directory));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("rendezvous");
    let meeting = UnixListener::bind(&path).unwrap();
    let origin = Origin::start();
    let mut proxy = Proxy::start(&policy(&origin));
    proxy.agent.send(&ToProxy::Rendezvous, &[meeting.as_fd()]);
    let address = proxy.address;
    assert_eq!(proxy.get("GET /").status, 200);
    let early = UnixStream::connect(&path).unwrap();
    let (agent, thread) = proxy.split();
    drop(agent);
    std::thread::sleep(Duration::from_millis(100));
    let mut client = Client::connect(address);
    assert_eq!(client.send("GET /").status, 200, "served without an agent");
    assert_eq!(client.send("GET /x/../y").status, 400);

    std::thread::sleep(Duration::from_millis(50));
    // A connection that says nothing is given up; the next one is met.
    drop(early);
    let mut agent = Agent::new(UnixStream::connect(&path).unwrap());
    agent.send(&ToProxy::HandOver, &[]);
    let (addresses, mut descriptors) = agent.until(|_, message, descriptors| match message {
        FromProxy::HandOver(addresses) => Some((addresses.clone(), std::mem::take(descriptors))),
        _ => None,
    });
    // Lost if no agent was there when it was told, else told to this one; never forgotten.
    let told = u64::try_from(agent.observations.len()).unwrap();
    assert_eq!(agent.lost + told, 1);
    let socket = TcpListener::from(descriptors.pop().unwrap());
    assert_eq!(addresses, [socket.local_addr().unwrap().into()]);
    assert_eq!(addresses, [address.into()]);
    agent.send(&ToProxy::Drain, &[]);
    thread.join().unwrap().unwrap();
    // The queue was never closed: a later process accepts from the same socket.
    let waiting = Client::connect(address);
    assert!(socket.accept().is_ok());
    drop(waiting);
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_proxy_that_no_agent_can_find_ends() {
    let origin = Origin::start();
    let (agent, thread) = Proxy::start(&policy(&origin)).split();
    drop(agent);
    thread.join().unwrap().unwrap();
}
