//! A request that nobody sent meets the stages in their order.

use std::net::IpAddr;

use super::origin::{KEY, Origin, policy};
use crate::{
    proxy::explain::{Asked, explain},
    refusal::Refusal,
};

#[test]
fn the_first_rule_that_refuses_is_named() {
    let policy = policy(&Origin::start());
    let ask = |method, target, headers: &[(&str, &str)]| {
        let headers: Vec<(String, String)> =
            headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let peer = IpAddr::from([203, 0, 113, 7]);
        explain(&policy, &Asked { peer, method, target, headers: &headers }, 1_000).unwrap()
    };
    for (method, target, headers, refusal) in [
        ("GET", "/api/../x", &[][..], Some(Refusal::MalformedRequest)),
        ("PATCH", "/api", &[], Some(Refusal::MethodNotAllowed)),
        ("GET", "/api", &[], Some(Refusal::Unauthorized)),
        ("GET", "/api", &[("x-api-key", "no")], Some(Refusal::InvalidCredential)),
        ("GET", "/api", &[("x-api-key", KEY)], None),
        ("GET", "/x", &[], None),
    ] {
        assert_eq!(ask(method, target, headers).refusal, refusal, "{method} {target}");
    }
    let told = ask("GET", "/api", &[("x-api-key", KEY)]).explanation.join("; ");
    for part in
        ["route /api", "authenticated as alice", "limit tight: 100 in 1h", "upstream origin"]
    {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(!told.contains(KEY), "{told}");
}
