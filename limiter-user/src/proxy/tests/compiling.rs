//! Policies that cannot be compiled: what lasts from one to the next does not know of them.

use std::sync::Arc;

use super::origin::{Origin, policy};
use crate::{
    link::StoreNotice,
    policy::store::StorePolicy,
    proxy::{compiled::Compiled, lasting::Lasting, shared_store::Stores, upstream::Directory},
};

#[test]
fn a_policy_that_fails_to_compile_leaves_no_trace() {
    let origin = Origin::start();
    let (stores, mut notices) = Stores::new();
    let (upstreams, _servers) = Directory::new(1);
    let mut lasting = Lasting::new(upstreams, stores);
    let mut good = policy(&origin);
    good.store = Some(StorePolicy::plain("127.0.0.1", 1));
    let before = Compiled::new(&good, &mut lasting).unwrap();
    assert_eq!(notices.try_recv(), Ok(StoreNotice::Back));
    let usage = lasting.counters.usage();

    let other = {
        let mut other = good.clone();
        other.store = Some(StorePolicy::plain("127.0.0.1", 2));
        other.limits[0].name = "another".into();
        other
    };
    let mut without_server = other.clone();
    without_server.upstreams[0].servers.clear();
    let mut bad_header = other.clone();
    bad_header.headers[0].set[0].0 = "no name".into();
    let mut bad_store = other;
    if let Some(store) = &mut bad_store.store {
        (store.host, store.roots) = ("no name".into(), Some(Vec::new()));
    }
    for bad in [without_server, bad_header, bad_store] {
        assert!(Compiled::new(&bad, &mut lasting).is_err());
        assert!(notices.try_recv().is_err(), "nothing is said of a store that is not used");
        assert_eq!(lasting.counters.usage(), usage);
    }
    let after = Compiled::new(&good, &mut lasting).unwrap();
    let stores = [before.store.as_ref().unwrap(), after.store.as_ref().unwrap()];
    assert!(Arc::ptr_eq(stores[0], stores[1]), "its connections are kept");
    assert!(notices.try_recv().is_err());
}
