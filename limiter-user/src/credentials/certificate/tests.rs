//! Names of certificates that rcgen makes, against patterns.

use rcgen::{CertificateParams, DnType, KeyPair, SanType};

use super::*;

fn certificate(subject: &[(DnType, &str)], names: &[SanType]) -> Vec<u8> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    for (kind, value) in subject {
        parameters.distinguished_name.push(kind.clone(), *value);
    }
    parameters.subject_alt_names = names.to_vec();
    parameters.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().unwrap())
}

fn email(name: &str) -> SanType {
    SanType::Rfc822Name(name.try_into().unwrap())
}

fn matched(pattern: &str, names: &Names) -> Option<String> {
    Pattern::alternative(pattern).unwrap().matched(names)
}

#[test]
fn alternative_names_match_as_they_are_written_or_below() {
    let names = Names::read(&certificate(
        &[],
        &[
            dns("A.svc.example.com"),
            dns("*.example.org"),
            uri("spiffe://prod.example.com/ns/a/sa/b"),
            email("Alice@Example.COM"),
            SanType::IpAddress("192.0.2.1".parse().unwrap()),
        ],
    ))
    .unwrap();
    let found = Some("a.svc.example.com".to_owned());
    for pattern in ["a.svc.example.com", "A.SVC.example.com", "*.svc.example.com", "*.com"] {
        assert_eq!(matched(pattern, &names), found, "{pattern}");
    }
    for pattern in
        ["svc.example.com", "*.a.svc.example.com", "vc.example.com", "*.vc.example.com", "a.b"]
    {
        assert_eq!(matched(pattern, &names), None, "{pattern}");
    }
    assert_eq!(matched("*.example.org", &names), None, "it names no single host");
    // rcgen's own end of time: 4096-01-01.
    assert_eq!(names.not_after(), 67_090_118_400);
    assert_eq!(moment((0x17, b"700101000001Z")), Some(1));
    assert_eq!(moment((0x18, b"19700101000001Z")), Some(1));
    for bad in [&b"700101000001"[..], b"701301000001Z", b"7001010000010Z", b"70010100000xZ"] {
        assert_eq!(moment((0x17, bad)), None);
    }
    for pattern in ["spiffe://prod.example.com/*", "spiffe://prod.example.com/ns/a/sa/b"] {
        assert!(matched(pattern, &names).unwrap().starts_with("spiffe"), "{pattern}");
    }
    for pattern in ["spiffe://prod.example.co/*", "spiffe://prod.example.com/ns/a/sa/b/*"] {
        assert_eq!(matched(pattern, &names), None, "{pattern}");
    }
    for pattern in ["*@example.com", "Alice@example.com"] {
        assert_eq!(matched(pattern, &names), Some("Alice@Example.COM".to_owned()), "{pattern}");
    }
    for pattern in ["alice@example.com", "*@xample.com"] {
        assert_eq!(matched(pattern, &names), None, "{pattern}");
    }
}

#[test]
fn a_subject_has_every_attribute_that_is_asked_for() {
    let subject = [
        (DnType::CountryName, "DE"),
        (DnType::OrganizationName, "Exämple"),
        (DnType::CommonName, "alice"),
    ];
    let names = Names::read(&certificate(&subject, &[])).unwrap();
    let matched = |text: &str| Pattern::subject(text).unwrap().matched(&names);
    assert_eq!(matched("CN=alice"), Some("alice".to_owned()));
    assert_eq!(matched("o=Exämple , cn=alice"), Some("alice".to_owned()));
    assert_eq!(matched("CN=Alice"), None);
    assert_eq!(matched("CN=alice,O=Example"), None);
    let names = Names::read(&certificate(&subject[..2], &[])).unwrap();
    let matched = Pattern::subject("C=DE").unwrap().matched(&names);
    assert_eq!(matched, Some("C=DE,O=Exämple".to_owned()));
}

#[test]
fn patterns_that_cannot_mean_what_they_say_are_refused() {
    for bad in [
        "",
        "*",
        "*.",
        "a.*.com",
        "*a.com",
        "a..com",
        "a b",
        "spiffe://*",
        "spiffe:///*",
        "spiffe://a/*/b",
        "a*@b.com",
        "@b.com",
        "a@*.com",
        "ä.com",
    ] {
        assert!(Pattern::alternative(bad).is_err(), "{bad}");
    }
    for bad in ["", "CN", "CN=", "X=1", "CN=a*", "CN=a,"] {
        assert!(Pattern::subject(bad).is_err(), "{bad}");
    }
}

#[test]
fn what_is_cut_off_or_changed_never_panics() {
    let whole = certificate(&[(DnType::CommonName, "a")], &[dns("a.b"), uri("x://y/z")]);
    for end in 0..whole.len() {
        assert!(Names::read(&whole[..end]).is_none());
        let mut changed = whole.clone();
        changed[end] ^= 0x41;
        drop(Names::read(&changed));
    }
}
