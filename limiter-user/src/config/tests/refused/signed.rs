//! Schemes that check signatures and certificates: every way to be wrong.

use super::{
    super::{API, Scratch, load_in},
    check,
};

/// RFC 8037, A.2.
const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\n\
                      MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n\
                      -----END PUBLIC KEY-----\n";

const WRONG: &[(&str, &str)] = &[
    ("kind = \"hmac\"", "`secrets` names 1 to 16 senders"),
    ("kind = \"hmac\"\nsecrets = {}", "`secrets` names 1 to 16 senders"),
    ("kind = \"hmac\"\nsecrets = { a = { env = \"T\" } }", "\"T\" is not set"),
    ("kind = \"hmac\"\nsecrets = { a = \"x\" }", "a secret is never written here"),
    (
        "kind = \"hmac\"\nheader = \"Host\"\nsecrets = { a = { env = \"T\" } }",
        "means something else",
    ),
    (
        "kind = \"hmac\"\nheader = \"Content-Type\"\nsecrets = { a = { env = \"T\" } }",
        "auth.a.header: \"Content-Type\" cannot be used: this header means something else",
    ),
    ("kind = \"hmac\"\ntolerance = \"2d\"\nsecrets = { a = { env = \"T\" } }", "between 1s and 1d"),
    (
        "kind = \"hmac\"\nheader = \"X-Hub-Signature-256\"\ntolerance = \"1m\"\n\
         secrets = { a = { env = \"T\" } }",
        "does not say when it was made",
    ),
    ("kind = \"hmac\"\nkeys = { a = { file = \"x\" } }", "`keys` belongs to kind \"signature\""),
    ("kind = \"signature\"", "`keys` is missing: who signs"),
    ("kind = \"signature\"\nkeys = { a = \"x\" }", "a secret is never written here"),
    ("kind = \"signature\"\nkeys = { a = { file = \"none.pem\" } }", "none.pem"),
    ("kind = \"signature\"\nkeys = { a = { fil = \"x\" } }", "unknown key"),
    (
        "kind = \"signature\"\nkeys = { a = { env = \"T\", algorithm = \"none\" } }",
        "the algorithms are ed25519",
    ),
    (
        "kind = \"signature\"\ncomponents = [\"@status\"]\nkeys = { a = { env = \"T\" } }",
        "a field, or one of @method",
    ),
    ("kind = \"signature\"\nprincipals = []", "`principals` belongs to kind \"mtls\""),
    ("kind = \"mtls\"", "`principals` is missing"),
    ("kind = \"mtls\"\nprincipals = []", "`principals` is missing"),
    ("kind = \"mtls\"\nprincipals = [{ tier = \"a\" }]", "exactly one of `san` and `subject`"),
    ("kind = \"mtls\"\nprincipals = [{ san = \"*\" }]", "not a DNS name"),
    ("kind = \"mtls\"\nprincipals = [{ subject = \"alice\" }]", "write `CN=name`"),
    (
        "kind = \"mtls\"\nprincipals = [{ san = \"a.test\" }]",
        "auth.a: no listener asks clients for certificates",
    ),
];

#[test]
fn schemes_that_check_signatures_and_certificates() {
    let mut failures = String::new();
    for (tail, expected) in WRONG {
        check(&format!("{API}[auth.a]\n{tail}\n"), expected, &mut failures);
    }
    assert!(failures.is_empty(), "{failures}");
}

/// What would be left out in silence is an error.
#[test]
fn of_several_keys_or_senders_none_is_left_out() {
    let scratch = Scratch::new();
    scratch.write("one.pem", PUBLIC, 0o644);
    scratch.write("two.pem", &PUBLIC.repeat(2), 0o644);
    let jwt = "kind = \"jwt\"\nissuer = \"i\"\naudience = \"a\"\npublic_key = ";
    let signed = "kind = \"signature\"\nkeys = { k = { file = ";
    let load = |scheme: &str| {
        let text = format!("{API}[auth.a]\n{scheme}\n");
        load_in(&scratch.0, &text, &[("S", "0123456789abcdef")]).map_err(|error| error.to_string())
    };
    for (scheme, end) in [(jwt, ""), (signed, " } }")] {
        load(&format!("{scheme}\"one.pem\"{end}")).unwrap();
        let error = load(&format!("{scheme}\"two.pem\"{end}")).unwrap_err();
        assert!(error.contains("holds more than one public key"), "{error}");
    }
    let error = load(&format!("{jwt}\"one.pem\"\ntier_claim = \"\"")).unwrap_err();
    assert!(error.contains("names no claim"), "{error}");
    let twice = "kind = \"hmac\"\nsecrets = { a = { env = \"S\" }, b = { env = \"S\" } }";
    let error = load(twice).unwrap_err();
    assert!(error.contains("the same secret as that of \"a\""), "{error}");
    assert!(!error.contains("0123456789abcdef"), "{error}");
}
