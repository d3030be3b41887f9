//! Values: what is accepted, what is refused and in which words.

use super::*;

#[test]
fn durations() {
    assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
    assert_eq!(duration("15m"), Ok(Duration::from_mins(15)));
    assert_eq!(duration("7d"), Ok(Duration::from_hours(168)));
    assert_eq!(duration("0s"), Ok(Duration::ZERO));
    for bad in ["", "15", "m", "-1s", "1.5s", "1 s", "1w", "366d", "99999999999999999999d"] {
        assert!(duration(bad).is_err(), "{bad}");
    }
    assert!(positive_duration("0s").is_err());
}

#[test]
fn sizes() {
    assert_eq!(size("2MB"), Ok(2_000_000));
    assert_eq!(size("2MiB"), Ok(2_097_152));
    assert_eq!(size("0B"), Ok(0));
    for bad in ["2", "MB", "2mb", "2.5MB", "18446744073709551615GB"] {
        assert!(size(bad).is_err(), "{bad}");
    }
}

#[test]
fn rates() {
    let rate_of = |count, seconds| Ok(Rate { count, period: Duration::from_secs(seconds) });
    assert_eq!(rate("100/s"), rate_of(100, 1));
    assert_eq!(rate("1000/15m"), rate_of(1000, 900));
    assert_eq!(rate("60/h"), rate_of(60, 3600));
    assert_eq!(rate("1/365d"), rate_of(1, 31_536_000));
    assert_eq!(rate("10000000/s"), rate_of(10_000_000, 1));
    for bad in ["100", "100/", "/s", "0/s", "1/366d", "10/100ms", "20000000/s", "1/0s", "-1/s"] {
        assert!(rate(bad).is_err(), "{bad}");
    }
}

#[test]
fn rates_of_bytes() {
    let rate_of = |count, seconds| Ok(Rate { count, period: Duration::from_secs(seconds) });
    assert_eq!(byte_rate("100MB/s"), rate_of(100_000_000, 1));
    assert_eq!(byte_rate("64KiB/10s"), rate_of(65_536, 10));
    assert_eq!(byte_rate("45TB/h").unwrap_err(), byte_rate("1/s").unwrap_err());
    assert_eq!(byte_rate("45000GB/h"), rate_of(45_000_000_000_000, 3600));
    for bad in ["45001GB/h", "100MB", "/s", "0B/s", "857B/h", "1B/5s", "20GB/s", "1MB/0s"] {
        assert!(byte_rate(bad).is_err(), "{bad}");
    }
}

#[test]
fn port_ranges() {
    let range = |protocol, first, last| Ok(PortRange { protocol, first, last });
    assert_eq!(port_range("tcp/53"), range(Protocol::Tcp, 53, 53));
    assert_eq!(port_range("udp/8000-8010"), range(Protocol::Udp, 8000, 8010));
    assert_eq!(port_range("tcp/1-65535"), range(Protocol::Tcp, 1, 65_535));
    for bad in ["53", "tcp", "tcp/", "tcp/0", "tcp/65536", "tcp/5-4", "tcp/1-", "tcp/-1", "icmp/8"]
    {
        assert!(port_range(bad).is_err(), "{bad}");
    }
}

#[test]
fn networks() {
    assert_eq!(network("10.0.0.0/8").unwrap().to_string(), "10.0.0.0/8");
    assert_eq!(network("192.0.2.1").unwrap().to_string(), "192.0.2.1/32");
    assert_eq!(
        network("10.1.2.3/8").unwrap_err(),
        "has host bits set; the network is \"10.0.0.0/8\""
    );
    assert!(network("::ffff:10.0.0.0/104").unwrap_err().contains("10.0.0.0/8"));
    for bad in ["", "10.0.0.0/33", "example.com", "10.0.0/8"] {
        assert!(network(bad).is_err(), "{bad}");
    }
}

#[test]
fn origins() {
    let app = origin("https://App.example.com").unwrap();
    assert_eq!((app.host.as_str(), app.port, app.subdomains), ("app.example.com", None, false));
    assert_eq!(origin("https://a.b:443").unwrap().port, None);
    assert_eq!(origin("http://localhost:5173").unwrap().port, Some(5173));
    assert!(origin("https://*.apps.example.com").unwrap().subdomains);
    assert_eq!(origin("http://[::1]:80").unwrap().host, "[::1]");
    for bad in
        ["null", "*", "example.com", "https://a/b", "ftp://a.b", "https://*.com", "https://a.b:0"]
    {
        assert!(origin(bad).is_err(), "{bad}");
    }
}

#[test]
fn names_and_methods() {
    assert!(name("by-address").is_ok());
    assert!(name("none").is_err() && name("a b").is_err() && name("").is_err());
    assert_eq!(method("GET"), Ok("GET".to_owned()));
    assert!(method("get").is_err());
    assert_eq!(header_name("X-API-Key"), Ok("x-api-key".to_owned()));
    assert!(header_name("a b").is_err());
}
