//! `[kernel]`: every way to be wrong that it shares with no other section.

use std::fmt::Write as _;

use super::{accepted, check, refused};

/// Lines of `[kernel]` that end in what is wrong with them.
const LINES: &[(&str, &str)] = &[
    (
        "trusted = [{ cidr = \"10.0.0.0/8\", interface = \"auto\" }]",
        "kernel.trusted[0].interface: \"auto\" cannot be used: is not the name of an interface",
    ),
    ("trusted = [{ cidr = \"10.0.0.0/8\", interface = \"a/b\" }]", "\"a/b\" cannot be used"),
    ("trusted = [{ cidr = \"10.0.0.0/8\", interfaces = \"eth0\" }]", "did you mean `interface`?"),
    ("trusted = [5]", "expected a network such as \"10.0.0.0/8\", or { cidr, interface }"),
    (
        "syn_cookies = \"maybe\"",
        "kernel.syn_cookies: \"maybe\" is not one of \"auto\", \"always\", \"off\"",
    ),
    ("forwarded = \"yes\"", "expected true or false"),
    ("max_prefix_bans = 0", "kernel.max_prefix_bans: 0 is not between 1 and 65536"),
    ("[kernel.limits]\nmode = \"off\"", "\"off\" is not one of \"enforce\", \"monitor\""),
    (
        "[kernel.total_limits]\npackets = \"1/d\"",
        "kernel.total_limits.packets: \"1/d\" cannot be used: packets are counted at \"1/h\" to \"10000000/s\"",
    ),
    ("[kernel.limits]\nnew_connections = \"1/61m\"", "\"1/h\" to \"10000000/s\""),
    ("[kernel.limits]\nudp_packets = \"10000001/s\"", "at most 10,000,000 per second"),
    ("[kernel.limits]\nudp_packets = \"20000001/2s\"", "at most 10,000,000 per second"),
    (
        "[kernel.limits]\nicmp_packets_burst = 5",
        "kernel.limits.icmp_packets_burst: a burst needs its rate",
    ),
    (
        "[kernel.limits]\nicmp_packets = \"1/s\"\nicmp_packets_burst = 0",
        "0 is not between 1 and 10000000",
    ),
    ("[kernel.limits]\npackets = \"1/h\"\npackets_burst = 8761", "within 365 days"),
    ("[kernel.limits]\npackets = \"36000000000/h\"", "needs a burst of at most 10000000 beside it"),
    (
        "[kernel.limits]\nconcurrent_connections = 0",
        "kernel.limits.concurrent_connections: 0 is not between 1 and 10000000",
    ),
    ("[kernel.limits]\nconcurrent_connections = \"5/s\"", "expected an integer"),
    (
        "[kernel.limits]\nbytes = \"100/s\"",
        "kernel.limits.bytes: \"100/s\" cannot be used: expected a rate of bytes such as \"100MB/s\"",
    ),
    ("[kernel.limits]\nbytes = \"100MB\"", "expected a rate of bytes"),
    ("[kernel.limits]\nbytes = \"12501MB/s\"", "between \"15B/m\" and \"12500MB/s\""),
    (
        "[kernel.limits]\nbytes = \"14B/m\"\nbytes_burst = \"64KiB\"",
        "between \"15B/m\" and \"12500MB/s\"",
    ),
    ("[kernel.limits]\nbytes = \"0B/s\"", "at least 1"),
    ("[kernel.limits]\nbytes_burst = \"1MB\"", "kernel.limits.bytes_burst: a burst needs its rate"),
    ("[kernel.limits]\nbytes = \"1MB/s\"\nbytes_burst = 1000", "expected a string"),
    (
        "[kernel.limits]\nbytes = \"1MB/s\"\nbytes_burst = \"59B\"",
        "a burst of 59 bytes admits nothing",
    ),
    (
        "[kernel.limits]\nbytes = \"15B/m\"",
        "kernel.limits.bytes: a burst of 15 bytes admits nothing",
    ),
    ("[kernel.limits]\nbytes = \"1B/s\"\nbytes_burst = \"1GB\"", "within 365 days"),
    ("[[kernel.service]]\nports = [\"tcp/1\"]", "kernel.service[0]: `name` is missing"),
    ("[[kernel.service]]\nname = \"a b\"\nports = [\"tcp/1\"]", "a name has 1 to 64 letters"),
    ("[[kernel.service]]\nname = \"a\"", "kernel.service[0]: `ports` is missing"),
    ("[[kernel.service]]\nname = \"a\"\nports = []", "the service has no port"),
    ("[[kernel.service]]\nname = \"a\"\nports = [53]", "53 names no protocol; write \"tcp/53\""),
    (
        "[[kernel.service]]\nname = \"a\"\nports = [\"sctp/1\"]",
        "kernel.service[0].ports[0]: \"sctp/1\" cannot be used: expected ports such as \"tcp/53\"",
    ),
    ("[[kernel.service]]\nname = \"a\"\nports = [\"tcp/0\"]", "a port lies between 1 and 65535"),
    (
        "[[kernel.service]]\nname = \"a\"\nports = [\"tcp/1-65536\"]",
        "a port lies between 1 and 65535",
    ),
    ("[[kernel.service]]\nname = \"a\"\nports = [\"tcp/9-8\"]", "9 is above 8"),
    (
        "[[kernel.service]]\nname = \"a\"\nports = [\"tcp/1-5\", \"tcp/5\"]",
        "kernel.service[0].ports[1]: tcp/5 is named twice by \"a\"",
    ),
    (
        "[[kernel.service]]\nname = \"a\"\nports = [\"tcp/1-5\"]\n[[kernel.service]]\nname = \"b\"\nports = [\"udp/1\", \"tcp/4-9\"]",
        "kernel.service[1].ports[1]: tcp/4 is in \"a\" and in \"b\"",
    ),
    (
        "[[kernel.service]]\nname = \"a\"\nports = [\"tcp/1\"]\n[[kernel.service]]\nname = \"a\"\nports = [\"tcp/2\"]",
        "kernel.service[1].name: two services are named \"a\"",
    ),
    (
        "[[kernel.service]]\nname = \"a\"\nports = [\"tcp/1\"]\nallow = [\"10.0.0.1/8\"]",
        "kernel.service[0].allow[0]",
    ),
    (
        "[[kernel.service]]\nname = \"a\"\nports = [\"tcp/1\"]\nlimits = { packet = \"1/s\" }",
        "did you mean `packets`?",
    ),
    (
        "[[kernel.service]]\nname = \"a\"\nports = [\"tcp/1\"]\ntotal_limits = { bytes = \"1/s\" }",
        "kernel.service[0].total_limits.bytes",
    ),
    (
        "[[kernel.service]]\nname = \"a\"\nports = [\"tcp/1\"]\nmode = \"off\"",
        "kernel.service[0].mode: \"off\" is not one of",
    ),
    (
        "[[kernel.service]]\nname = \"a\"\nports = [\"tcp/1\"]\nmode = \"monitor\"\nlimits = { mode = \"off\" }",
        "kernel.service[0].limits.mode: \"off\" is not one of",
    ),
];

#[test]
fn kernel() {
    let mut failures = String::new();
    for (line, expected) in LINES {
        check(&format!("[kernel]\n{line}\n"), expected, &mut failures);
    }
    assert!(failures.is_empty(), "{failures}");
}

fn services(count: usize) -> String {
    let mut text = String::from("[kernel]\n");
    for number in 1..=count {
        write!(text, "[[kernel.service]]\nname = \"s{number}\"\nports = [\"tcp/{number}\"]\n")
            .unwrap();
    }
    text
}

#[test]
fn there_are_31_services_at_most() {
    assert_eq!(accepted(&services(31)).policy.kernel.unwrap().services.len(), 31);
    let error = refused(&services(33));
    assert!(error.contains("kernel.service[31]: 33 services are written, at most 31"), "{error}");
}

#[test]
fn what_lies_at_the_bounds_is_accepted() {
    for line in [
        "packets = \"1/h\"\npackets_burst = 8760",
        "packets = \"10000000/s\"",
        "udp_packets = \"36000000000/h\"\nudp_packets_burst = 10000000",
        "bytes = \"12500MB/s\"",
        "bytes = \"15B/m\"\nbytes_burst = \"64KiB\"",
        "bytes = \"60B/s\"",
        "concurrent_connections = 1",
    ] {
        let limits = accepted(&format!("[kernel.limits]\n{line}\n")).policy.kernel.unwrap().limits;
        assert!(limits.any(), "{line}");
    }
}
