//! Listeners: addresses of every kind, certificates and keys as files.

use std::fs;

use rcgen::{CertificateParams, KeyPair};

use super::{Scratch, load_in};
use crate::policy::listener::{ListenAddress, TlsVersion};

const ROUTE: &str = "[[http.upstream]]\nname = \"a\"\nservers = [\"http://127.0.0.1:1\"]\n\
                     [[http.route]]\nauth = \"none\"\n";

/// A certificate and its key, in PEM.
fn certificate(name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

fn listener(tls: &str) -> String {
    format!("[[http.listener]]\naddress = \"127.0.0.1:1\"\ntls = {tls}\n{ROUTE}")
}

const PAIR: &str = "{ certificates = [{ certificate = \"a.pem\", key = \"a.key\" }] }";

#[test]
fn certificates_are_read_with_their_keys() {
    let scratch = Scratch::new();
    let (certificate, key) = certificate("a.test");
    scratch.write("a.pem", &certificate, 0o644);
    scratch.write("a.key", &key, 0o600);
    let loaded = load_in(&scratch.0, &listener(PAIR), &[]).unwrap();
    let tls = loaded.policy.http.unwrap().listeners[0].tls.clone().unwrap();
    assert_eq!(tls.min_version, TlsVersion::Tls12);
    assert_eq!(tls.certificates[0].chain.len(), 1);
    assert_eq!(tls.files().count(), 2);
    assert_eq!(super::super::tls::reread(&tls).unwrap(), tls);
    let shown = format!("{tls:?}");
    assert!(shown.contains("[secret]"), "{shown}");
    fs::remove_file(scratch.0.join("a.key")).unwrap();
    let error = super::super::tls::reread(&tls).unwrap_err().to_string();
    assert!(error.contains("cannot open") && error.contains("a.key"), "{error}");
}

#[test]
fn what_cannot_be_used_is_said() {
    let scratch = Scratch::new();
    let (certificate_pem, key) = certificate("a.test");
    let (_, other) = certificate("b.test");
    let refused = |tls: &str| load_in(&scratch.0, &listener(tls), &[]).unwrap_err().to_string();
    assert!(refused(PAIR).contains("cannot open"));
    scratch.write("a.pem", &certificate_pem, 0o644);
    scratch.write("a.key", &key, 0o644);
    assert!(refused(PAIR).contains("everybody can use it"));
    fs::remove_file(scratch.0.join("a.key")).unwrap();
    scratch.write("a.key", &other, 0o600);
    assert!(refused(PAIR).contains("is not the key of"));
    scratch.write("a.key", "-----BEGIN SECRET-----\nhunter2\n", 0o600);
    let error = refused(PAIR);
    assert!(error.contains("no private key") && !error.contains("hunter2"), "{error}");
    scratch.write("a.key", &key, 0o600);
    scratch.write("a.pem", "nothing", 0o644);
    assert!(refused(PAIR).contains("holds no certificate"));
    scratch.write("a.pem", &certificate_pem, 0o644);
    let with = |more: &str| PAIR.replace(" }] }", &format!(" }}], {more} }}"));
    assert!(refused(&with("crl = \"a.pem\"")).contains("no `client_ca`"));
    assert!(refused(&with("client_ca = \"b.pem\"")).contains("b.pem"));
    assert!(
        refused(&with("client_ca = \"a.pem\", crl = \"a.pem\"")).contains("no revocation list")
    );
    assert!(refused(&with("min_version = \"1.1\"")).contains("not one of \"1.2\", \"1.3\""));
    let both = format!(
        "[[http.listener]]\naddress = \"127.0.0.1:1\"\ntls = {PAIR}\nredirect_https = true\n{ROUTE}"
    );
    let error = load_in(&scratch.0, &both, &[]).unwrap_err().to_string();
    assert!(error.contains("nowhere to redirect"), "{error}");
}

#[test]
fn one_thing_that_is_wrong_is_said_once_and_where_it_is() {
    let scratch = Scratch::new();
    let (certificate_pem, key) = certificate("a.test");
    scratch.write("a.pem", &certificate_pem, 0o644);
    scratch.write("a.key", &key, 0o644);
    let redirecting = "[[http.listener]]\naddress = \"127.0.0.1:2\"\nredirect_https = true\n";
    let error = load_in(&scratch.0, &format!("{redirecting}{}", listener(PAIR)), &[]).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.count(), 1, "{text}");
    assert!(text.contains("everybody can use it") && text.contains("key = \"a.key\""), "{text}");
    fs::remove_file(scratch.0.join("a.key")).unwrap();
    scratch.write("a.key", &key, 0o600);
    let clients = "client_ca = \"a.pem\", crl = \"a.key\"";
    let tls = PAIR.replace(" }] }", &format!(" }}], {clients} }}"));
    let text = load_in(&scratch.0, &listener(&tls), &[]).unwrap_err().to_string();
    assert!(text.contains("tls.crl: ") && text.contains("no revocation list"), "{text}");
}

#[test]
fn certificates_that_end_are_risks() {
    let scratch = Scratch::new();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    scratch.write("a.pem", &params.self_signed(&key).unwrap().pem(), 0o644);
    scratch.write("a.key", &key.serialize_pem(), 0o600);
    let risks = load_in(&scratch.0, &listener(PAIR), &[]).unwrap().risks;
    let risk = risks.iter().find(|risk| risk.sentence.contains("it expired ")).unwrap();
    assert_eq!(risk.key, "http.listener[0].tls.certificates[0]");
    assert!(risk.sentence.contains("a.pem"), "{}", risk.sentence);
}

#[test]
fn sockets_of_every_kind() {
    let scratch = Scratch::new();
    let text = format!(
        "[http]\nclient_address = \"proxy\"\ntrusted_proxies = [\"127.0.0.1\"]\n\
         [[http.listener]]\naddress = \"unix:http.sock\"\nproxy_protocol = true\n\
         [[http.listener]]\naddress = \"systemd:limiter.socket\"\n\
         [[http.listener]]\naddress = \"[::1]:80\"\n{ROUTE}"
    );
    let listeners = load_in(&scratch.0, &text, &[]).unwrap().policy.http.unwrap().listeners;
    assert_eq!(listeners[0].address, ListenAddress::Unix(scratch.0.join("http.sock")));
    assert!(listeners[0].proxy_protocol && !listeners[1].proxy_protocol);
    assert_eq!(listeners[1].address.to_string(), "systemd:limiter.socket");
    assert_eq!(listeners[2].address.port(), Some(80));
    let elsewhere = load_in(&scratch.0, &text, &[("LIMITER_LISTEN", "[::1]:80,127.0.0.1:9")]);
    let error = elsewhere.unwrap_err().to_string();
    assert!(error.contains("no listener expects the PROXY protocol"), "{error}");
}
