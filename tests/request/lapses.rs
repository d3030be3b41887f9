//! Credentials that end while a connection goes on: they are judged with each request.

use std::{thread, time::Duration};

use limiter_tests::{
    http::{self, Connection},
    tokens::Signer,
    wait::eventually,
};
use limiter_user::clock;
use serde_json::json;

use crate::{
    edge::{Authority, Edge},
    support::{SOON, Site},
    webhooks::now,
};

/// Seconds that a credential of these tests lasts.
const BRIEF: u64 = 3;

/// Until after this moment in Unix seconds.
fn sleep_past(seconds: u64) {
    let left_ns = (seconds * 1_000_000_000 + 1_100_000_000).saturating_sub(clock::unix_ns());
    thread::sleep(Duration::from_nanos(left_ns));
}

/// On a connection that is kept.
fn status(connection: &mut Connection, field: (&str, &str)) -> u16 {
    connection.exchange(&http::request("GET", "/", &[field], b"")).unwrap().status
}

#[test]
fn a_certificate_ends_while_its_session_goes_on() {
    let listener = "[[http.listener]]\naddress = \"127.0.0.1:8443\"\n\
         tls = { certificates = [{ certificate = \"server.pem\", key = \"server.key\" }], \
         client_ca = \"clients.pem\", client_certificate = \"optional\" }";
    let scheme =
        "[auth.device]\nkind = \"mtls\"\nprincipals = [{ san = \"client.test\" }]\n".to_owned();
    let mut edge = Edge::prepare("", listener);
    let (servers, clients) = (Authority::new(), Authority::new());
    edge.limiter.scratch().write("ca.pem", servers.pem());
    edge.limiter.scratch().write("clients.pem", clients.pem());
    edge.write_pair("server", &servers.server(&["api.test"]));
    edge.protect("device", &scheme);
    edge.limiter.restart();
    let mut lapsed = 0;
    for (version, protocol) in [("1.2", "http/1.1"), ("1.3", "http/1.1"), ("1.3", "h2")] {
        let ends = now() + BRIEF;
        edge.write_pair("client", &clients.client_until(ends));
        let said = edge.python("lapse.py", &[version, protocol, &ends.to_string()]).succeeded();
        assert_eq!(said.stdout, "resumed\nas it should\n", "{version} {protocol}");
        // Three on the connection, one in the session, and a handshake.
        lapsed += 5;
        edge.refused("unauthorized", lapsed);
    }
    edge.refused("invalid_credential", 0);
}

#[test]
fn a_token_ends_while_its_connection_goes_on() {
    let signer = Signer::ed25519();
    let section = "[auth.login]\nkind = \"jwt\"\nissuer = \"https://id.test\"\n\
                   audience = \"api\"\npublic_key = \"id.pem\"\ntolerance = \"1s\"\n";
    let mut site = Site::prepare("", "auth = [\"login\"]\nlimits = \"none\"", section);
    site.limiter.scratch().write("id.pem", signer.pem());
    site.limiter.restart();
    let ends = now() + BRIEF;
    let claims = json!({ "iss": "https://id.test", "aud": "api", "sub": "alice", "exp": ends });
    let bearer = format!("Bearer {}", signer.token("x", &claims));
    let mut kept = site.connect();
    let mut ask = || status(&mut kept, ("Authorization", &bearer));
    assert_eq!([ask(), ask()], [200, 200]);
    sleep_past(ends + 1);
    assert_eq!([ask(), ask()], [401, 401]);
    site.refused("unauthorized", 2);
    // Nor on another connection, whichever core has it.
    for _ in 0..8 {
        assert_eq!(status(&mut site.connect(), ("Authorization", &bearer)), 401);
    }
}

#[test]
fn a_key_ends_while_its_connection_goes_on() {
    let section = "[auth.keys]\nkind = \"api_key\"\nkeys_file = \"keys.toml\"\n";
    let mut site = Site::prepare("", "auth = [\"keys\"]\nlimits = \"none\"", section);
    site.limiter.restart();
    let make = |name: &str, more: &[&str]| {
        let arguments = [&["keys", "new", "--name", name], more].concat();
        site.limiter.with_file(&arguments).succeeded().stdout.trim().to_owned()
    };
    let long = make("long", &[]);
    let brief = make("brief", &["--expires", &format!("{BRIEF}s")]);
    let ends = now() + BRIEF;
    let mut kept = site.connect();
    eventually(SOON, "the key opens", || status(&mut kept, ("X-API-Key", &brief)) == 200);
    sleep_past(ends + 1);
    assert_eq!(status(&mut kept, ("X-API-Key", &brief)), 401);
    assert_eq!(status(&mut kept, ("X-API-Key", &long)), 200, "the connection is nobody's");
    assert_eq!(status(&mut kept, ("X-API-Key", &brief)), 401);
}
