//! Every way to be wrong, and the words for it.

mod kernel;
mod routes;
mod signed;

use std::fmt::Write as _;

use super::*;

#[test]
fn an_error_shows_file_line_column_key_and_what_is_allowed() {
    let scratch = Scratch::new();
    let text = "[kernel]\ninterfaces = [\"eth0\"]\nattach = \"fast\"\n";
    let error = load_in(&scratch.0, text, &[]).unwrap_err().to_string();
    let path = scratch.0.join("limiter.toml").display().to_string();
    let expected = format!(
        "error: kernel.attach: \"fast\" is not one of \"auto\", \"native\", \"generic\"\n \
         --> {path}:3:10\n  |\n3 | attach = \"fast\"\n  |          ^^^^^^"
    );
    assert_eq!(error, expected);
}

/// Documents that end in what is wrong with them.
const ALONE: &[(&str, &str)] = &[
    ("", "nothing to protect"),
    ("[kernel", "limiter.toml:1:8"),
    ("[kernel]\nattach = \"auto\"\nattach = \"auto\"", "duplicate key"),
    ("[kernal]", "unknown key `kernal`\n"),
    ("[kernal]", "did you mean `kernel`?"),
    ("[kernel]\nrequired = \"yes\"", "found string \"yes\", expected true or false"),
    ("[kernel]\nmax_bans = 0", "kernel.max_bans: 0 is not between 1 and 16777216"),
    ("[kernel]\nipv6_prefix = 65", "65 is not between 1 and 64"),
    ("[kernel]\ninterfaces = []", "no interface is named"),
    (
        "[kernel]\ninterfaces = [\"eth0\", \"eth0\"]",
        "kernel.interfaces[1]: \"eth0\" is named twice",
    ),
    ("[kernel]\ninterfaces = [\"a/b\"]", "not the name of an interface"),
    ("[kernel]\ndeny = [\"10.1.2.3/8\"]", "the network is \"10.0.0.0/8\""),
    ("[kernel]\ntrusted = [{}]", "`cidr` is missing"),
    ("[kernel]\nfailsafe_ports = [70000]", "not a port"),
    ("[kernel]\nfailsafe_ports = [\"udp/53\"]", "\"udp/53\" is not supported by this version"),
    ("[kernel]\n[admin]\nlisten = \"127.0.0.1:9900\"", "admin.listen: not supported"),
    ("[kernel]\n[store]\nkind = \"redis\"", "`url` is missing"),
    ("[kernel]\n[store]\nkind = \"memcached\"", "is not one of"),
    ("[kernel]\n[store]\nkind = \"redis\"\nurl = \"http://x\"", "expected redis://"),
    ("[kernel]\n[store]\nkind = \"redis\"\nurl = \"redis://x/y\"", "/NUMBER for a database"),
    ("[kernel]\n[store]\nkind = \"redis\"\nurl = \"redis://u@x\"", "no user or password"),
    (
        "[kernel]\n[store]\nkind = \"redis\"\nurl = \"redis://x\"\nca = \"a.pem\"",
        "is not rediss://",
    ),
    (
        "[kernel]\n[store]\nkind = \"redis\"\nurl = \"redis://x\"\nuser = \"u\"",
        "a user without a password",
    ),
    (
        "[kernel]\n[store]\nkind = \"redis\"\nurl = \"redis://x\"\ntimeout = \"1m\"",
        "between 5ms and 5s",
    ),
    ("[kernel]\n[[feeds]]\nname = \"drop\"", "feeds[0]: not supported"),
    ("[kernel]\n[validate.orders]\nopenapi = \"o.yaml\"", "validate"),
    ("[kernel]\n[detect.default]\nclasses = {}", "detect"),
    (
        "preset = \"pubic\"\n[kernel]",
        "expected \"public\", \"private\", \"internal\" or \"elizaos\"",
    ),
    ("[kernel]\n[limits.a]\nrate = \"1/s\"", "nothing serves HTTP"),
    ("[kernel]\n[escalation]\nthreshold = 0", "0 is not between 1 and"),
    (
        "[kernel]\n[escalation]\nscores = { unauthorized = 1 }",
        "a missing credential is no evidence",
    ),
    ("[kernel]\n[escalation]\nscores = { upstream_failed = 1 }", "not the client's own doing"),
    ("[kernel]\n[escalation]\nscores = { sqli = 1 }", "allowed here: malformed_request"),
    ("[kernel]\n[escalation]\nban = { first = \"8d\" }", "longer than the longest"),
    ("[kernel]\n[[events.sink]]\nkind = \"syslog\"", "\"syslog\" is not supported by this version"),
    ("[kernel]\n[[events.sink]]\nkind = \"file\"", "needs its `path`"),
    ("[kernel]\n[[events.sink]]\nkind = \"stderr\"\npath = \"x\"", "belongs to kind = \"file\""),
    (
        "[kernel]\n[[events.sink]]\nkind = \"stderr\"\n[[events.sink]]\nkind = \"stderr\"",
        "same place",
    ),
    (
        "[kernel]\n[[events.sink]]\nkind = \"stderr\"\nfilter = { kinds = [\"Banned!\"] }",
        "expected a label",
    ),
    ("[http]\nmax_body = \"2MB\"", "no upstream is named"),
    ("[[http.upstream]]\nname = \"a\"", "missing key `servers`"),
];

#[test]
fn documents_that_cannot_be_used() {
    let mut failures = String::new();
    for (text, expected) in ALONE {
        check(text, expected, &mut failures);
    }
    assert!(failures.is_empty(), "{failures}");
}

fn check(text: &str, expected: &str, failures: &mut String) {
    match load_with(text, &[]) {
        Ok(_) => writeln!(failures, "accepted:\n{text}\n").unwrap(),
        Err(error) if error.to_string().contains(expected) => {}
        Err(error) => {
            writeln!(failures, "expected {expected:?}\nfrom\n{text}\ngot\n{error}\n").unwrap();
        }
    }
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let text = format!("[kernel]\nattach = \"x\"\nmode = \"y\"\n{API}cors = \"z\"\n");
    let error = load_with(&text, &[]).unwrap_err();
    assert_eq!(error.count(), 3, "{error}");
    // A table that is wrong is there all the same.
    let text = format!(
        "{API}limits = [\"a\"]\ncors = \"b\"\n[limits.a]\nrate = \"x\"\n[cors.b]\norigins = [\"y\"]\n"
    );
    let error = load_with(&text, &[]).unwrap_err();
    assert_eq!(error.count(), 2, "{error}");
}

#[test]
fn no_secret_is_shown() {
    for tail in [
        "[auth.a]\nkind = \"api_key\"\ntoken = \"hunter2\"\n",
        "[auth.a]\nkind = \"api_key\"\ntokne = \"hunter2\"\n",
        "[auth.a]\nkind = \"api_key\"\ntoken = [\"hunter2\"]\n",
        "[auth.a]\nkind = \"api_key\"\ntoken = \"\"\"\nhunter2\"\"\"\n",
        "[auth.a]\nkind = \"hmac\"\nsecrets = { a = \"hunter2\" }\n",
        "[[http.upstream]]\nname = \"b\"\nservers = [\"http://me:hunter2@host\"]\n",
        "[store]\nkind = \"local\"\npassword = \"hunter2\"\n",
        "[store]\nurl = \"redis://:hunter2@host\"\n",
        "[store]\nkind = \"redis\"\nurl = \"redis://:hunter2@host\"\n",
        "[store]\nkind = \"redis\"\nurl = \"redis://host\"\npassword = \"hunter2\"\n",
    ] {
        let error = refused(&format!("{API}{tail}"));
        assert!(!error.contains("hunter2"), "{error}");
    }
    let error = refused(&format!("{API}[auth.a]\nkind = \"api_key\"\ntoken = \"hunter2\"\n"));
    assert!(error.contains("a secret is never written here"), "{error}");
    assert!(error.contains("{ env = \"NAME\" } or { file = \"PATH\" }"), "{error}");
}

#[test]
fn files_that_others_can_use_are_refused() {
    let scratch = Scratch::new();
    for (mode, ok) in [(0o600, true), (0o640, true), (0o644, false), (0o660, false)] {
        scratch.write("keys.toml", "", mode);
        scratch.write("token", "correct-horse-battery\n", mode);
        let text = format!(
            "{API}[auth.a]\nkind = \"api_key\"\nkeys_file = \"keys.toml\"\n\
             token = {{ file = \"token\" }}\n"
        );
        match load_in(&scratch.0, &text, &[]) {
            Ok(_) => assert!(ok, "{mode:o}"),
            Err(error) => {
                assert!(!ok, "{error}");
                assert_eq!(error.count(), 2, "{error}");
                let text = error.to_string();
                assert!(text.contains(&format!("mode {mode:04o}")), "{text}");
                assert!(text.contains("chmod 600"), "{text}");
            }
        }
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let environment = lookup(&[("LIMITER_CONFIG", "/nowhere/limiter.toml")]);
    let error = load(&Sources::new(&environment)).unwrap_err().to_string();
    assert!(error.contains("/nowhere/limiter.toml: No such file"), "{error}");
}
