//! Tokens that are bound to a client's certificate (RFC 8705).

use limiter_tests::tokens::{Signer, thumbprint};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::json;

use super::claims;
use crate::{
    edge::{Authority, Edge},
    support::SOON,
};

#[test]
fn only_with_its_certificate() {
    let authority = Authority::new();
    let listener = "[[http.listener]]\naddress = \"127.0.0.1:8443\"\ntls = { certificates = \
                    [{ certificate = \"server.pem\", key = \"server.key\" }], \
                    client_ca = \"ca.pem\", client_certificate = \"optional\" }";
    let mut edge = Edge::prepare("", listener);
    let signer = Signer::p256();
    edge.limiter.scratch().write("ca.pem", authority.pem());
    edge.limiter.scratch().write("id.pem", signer.pem());
    edge.write_pair("server", &authority.server(&["first.test"]));
    let (hers, his) = (authority.client(1), authority.client(2));
    edge.write_pair("hers", &hers);
    edge.write_pair("his", &his);
    let text = std::fs::read_to_string(edge.limiter.configuration()).unwrap();
    let text = text.replace("auth = \"none\"", "auth = [\"login\"]")
        + "[auth.login]\nkind = \"jwt\"\nissuer = \"https://id.test\"\naudience = \"api\"\n\
           public_key = \"id.pem\"\n";
    edge.limiter.configure_exactly(&text);
    edge.limiter.restart();

    let leaf = CertificateDer::from_pem_slice(hers.certificate.as_bytes()).unwrap();
    let confirmation = json!({ "cnf": { "x5t#S256": thumbprint(&leaf) } });
    let bound = signer.token("x", &claims(&confirmation));
    let free = signer.token("x", &claims(&json!({})));
    let status = |token: &str, name: Option<&str>, version: &str| {
        let (certificate, key) =
            name.map(|name| (format!("{name}.pem"), format!("{name}.key"))).unwrap_or_default();
        let header = format!("Authorization: Bearer {token}");
        let mut all = vec!["--resolve", "first.test:8443:127.0.0.1", version, "-H", &header];
        if name.is_some() {
            all.extend(["--cert", &certificate, "--key", &key]);
        }
        all.extend(["-o", "/dev/null", "-w", "%{http_code}", "https://first.test:8443/"]);
        edge.curl(&all).succeeded().stdout
    };
    for version in ["--http1.1", "--http2"] {
        assert_eq!(status(&bound, Some("hers"), version), "200");
        assert_eq!(status(&bound, Some("his"), version), "401", "known, and not for him");
        assert_eq!(status(&bound, None, version), "401");
        for name in [None, Some("hers"), Some("his")] {
            assert_eq!(status(&free, name, version), "200");
        }
    }
}

/// The token is what its client means; the certificate, which names a service here, only proves that
/// it is the client's.
#[test]
fn the_token_names_whom_it_is_for_beside_a_certificate_that_names_another() {
    let authority = Authority::new();
    let listener = "[[http.listener]]\naddress = \"127.0.0.1:8443\"\ntls = { certificates = \
                    [{ certificate = \"server.pem\", key = \"server.key\" }], \
                    client_ca = \"ca.pem\", client_certificate = \"optional\" }";
    let mut edge = Edge::prepare("", listener);
    let signer = Signer::p256();
    edge.limiter.scratch().write("ca.pem", authority.pem());
    edge.limiter.scratch().write("id.pem", signer.pem());
    edge.write_pair("server", &authority.server(&["first.test"]));
    let (hers, his) = (authority.client(1), authority.client(2));
    edge.write_pair("hers", &hers);
    edge.write_pair("his", &his);
    let sections = "[auth.login]\nkind = \"jwt\"\nissuer = \"https://id.test\"\n\
                    audience = \"api\"\npublic_key = \"id.pem\"\n[auth.service]\nkind = \"mtls\"\n\
                    principals = [{ san = \"client.test\", name = \"gateway\", tier = \"internal\" }]\n";
    edge.protect("service\", \"login", sections);
    edge.limiter.restart();

    let leaf = CertificateDer::from_pem_slice(hers.certificate.as_bytes()).unwrap();
    let confirmation = json!({ "cnf": { "x5t#S256": thumbprint(&leaf) } });
    let bound = signer.token("x", &claims(&confirmation));
    let free = signer.token("x", &claims(&json!({})));
    let old = signer.token("x", &claims(&json!({ "exp": 1_700_000_000 })));
    let forged = Signer::p256().token("x", &claims(&json!({})));
    let get = |token: Option<&str>, name: Option<&str>, version: &str| {
        let (certificate, key) =
            name.map(|name| (format!("{name}.pem"), format!("{name}.key"))).unwrap_or_default();
        let header = token.map(|token| format!("Authorization: Bearer {token}"));
        let mut all = vec!["--resolve", "first.test:8443:127.0.0.1", version];
        all.extend(header.iter().flat_map(|header| ["-H", header.as_str()]));
        if name.is_some() {
            all.extend(["--cert", &certificate, "--key", &key]);
        }
        all.extend(["-o", "/dev/null", "-w", "%{http_code}", "https://first.test:8443/"]);
        let status = edge.curl(&all).succeeded().stdout;
        let seen = (status == "200").then(|| edge.origin.take_one(SOON));
        (status, seen.and_then(|seen| seen.header("x-auth-subject")))
    };
    let named = |name: &str| ("200".to_owned(), Some(name.to_owned()));
    let refused = || ("401".to_owned(), None);
    for version in ["--http1.1", "--http2"] {
        assert_eq!(get(Some(&bound), Some("hers"), version), named("alice"));
        assert_eq!(get(Some(&bound), Some("his"), version), refused());
        assert_eq!(get(Some(&bound), None, version), refused());
        assert_eq!(get(Some(&free), Some("his"), version), named("alice"));
        assert_eq!(get(None, Some("hers"), version), named("gateway"));
        assert_eq!(get(Some(&forged), Some("hers"), version), refused());
        // Whoever acts for others does not act for himself when their time is over.
        assert_eq!(get(Some(&old), Some("hers"), version), refused());
    }
    edge.refused("unauthorized", 2);
    edge.refused("invalid_credential", 6);
}
