//! Tokens that are bound to a client's certificate (RFC 8705).

use limiter_tests::tokens::{Signer, thumbprint};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::json;

use super::claims;
use crate::edge::{Authority, Edge};

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
