//! Examples of the standard's own, and what it has that is not supported here.

use super::*;

fn line(component: &str, message: &Message<'_>) -> Option<String> {
    let base = base::of(&parsed(&format!("({component})")), message)?;
    let text = String::from_utf8(base).unwrap();
    let line = text.lines().next().unwrap().strip_prefix(component).unwrap().to_owned();
    Some(line.strip_prefix(": ").unwrap().to_owned())
}

/// RFC 9421, 2.1.
#[test]
fn fields_are_those_of_the_examples() {
    let headers = headers(&[
        ("x-ows-header", "   Leading and trailing whitespace.   "),
        ("cache-control", "max-age=60"),
        ("cache-control", "    must-revalidate"),
        ("example-dict", " a=1,    b=2;x=1;y=2,   c=(a   b    c), d"),
        ("x-empty-header", ""),
        ("example-header", "value, with, lots"),
        ("example-header", "of, commas"),
        ("single-header", "value, with, lots, of, commas"),
        ("priority", "u=1,    i"),
        ("twice", "a=1, a=2"),
    ]);
    let message = request(&headers);
    for (component, expected) in [
        (r#""x-ows-header""#, Some("Leading and trailing whitespace.")),
        (r#""cache-control""#, Some("max-age=60, must-revalidate")),
        (r#""example-dict""#, Some("a=1,    b=2;x=1;y=2,   c=(a   b    c), d")),
        (r#""x-empty-header""#, Some("")),
        (r#""example-dict";key="a""#, Some("1")),
        (r#""example-dict";key="d""#, Some("?1")),
        (r#""example-dict";key="b""#, Some("2;x=1;y=2")),
        (r#""example-dict";key="c""#, Some("(a b c)")),
        (r#""example-header";bs"#, Some(":dmFsdWUsIHdpdGgsIGxvdHM=:, :b2YsIGNvbW1hcw==:")),
        (r#""single-header";bs"#, Some(":dmFsdWUsIHdpdGgsIGxvdHMsIG9mLCBjb21tYXM=:")),
        (r#""priority";sf"#, Some("u=1, i")),
        // What a field is like that nobody told of here is not guessed.
        (r#""example-dict";sf"#, None),
        (r#""twice";key="a""#, None),
    ] {
        assert_eq!(line(component, &message).as_deref(), expected, "{component}");
    }
}

/// RFC 9421, 2.2.
#[test]
fn the_authority_has_one_form_and_the_target_that_of_the_request_line() {
    let none = HeaderMap::new();
    let message = request(&none);
    for (scheme, authority, expected) in [
        ("https", "www.example.com", "www.example.com"),
        ("https", "WWW.Example.COM:443", "www.example.com"),
        ("https", "example.com:80", "example.com:80"),
        ("http", "example.com:80", "example.com"),
        ("http", "example.com:443", "example.com:443"),
        ("http", "example.com:8080", "example.com:8080"),
        ("https", "[2001:DB8::1]:443", "[2001:db8::1]"),
        ("http", "[::80]", "[::80]"),
    ] {
        let message = Message { scheme, authority, ..message };
        assert_eq!(line(r#""@authority""#, &message).as_deref(), Some(expected), "{authority}");
        let uri = format!("{scheme}://{expected}/foo?param=Value&Pet=dog");
        assert_eq!(line(r#""@target-uri""#, &message), Some(uri));
    }
    let absolute =
        Message { absolute: Some("https://www.example.com/path?param=value"), ..message };
    let target = r#""@request-target""#;
    assert_eq!(line(target, &absolute).unwrap(), "https://www.example.com/path?param=value");
    assert_eq!(line(target, &message).unwrap(), "/foo?param=Value&Pet=dog");
    for (query, expected) in
        [(None, "?"), (Some(""), "?"), (Some("&"), "?&"), (Some("a?b"), "?a?b")]
    {
        assert_eq!(line(r#""@query""#, &Message { query, ..message }).unwrap(), expected);
    }
    // Nothing between two separators is no parameter.
    let empty = Message { query: Some("&&a=1"), ..message };
    assert_eq!(line(r#""@query-param";name="""#, &empty), None);
    let named = Message { query: Some("=1"), ..message };
    assert_eq!(line(r#""@query-param";name="""#, &named).as_deref(), Some("1"));
}

#[test]
fn what_is_not_supported_makes_no_signature() {
    let headers = headers(&FIELDS);
    let message = request(&headers);
    for component in [
        r#""content-digest";tr"#,
        r#""content-digest";req"#,
        r#""content-digest";sf=?0"#,
        r#""content-digest";bs=?0"#,
        r#""content-digest";bs=1"#,
        r#""content-digest";sf;tr"#,
        r#""content-digest";bs;key="sha-512""#,
        r#""content-digest";key=sha-512"#,
        r#""content-digest";unknown"#,
        r#""date";sf"#,
        r#""@method";tr"#,
        r#""@path";req"#,
        r#""@authority";sf"#,
        r#""@query";name="param""#,
        r#""@query-param";name=param"#,
        r#""@query-param";name="param";req"#,
        r#""@query-param";name="param";tr"#,
        r#""@status""#,
        r#""@unknown""#,
        r#""@""#,
        r#""""#,
        "1",
        "?1",
        ":AAAA:",
    ] {
        assert_eq!(base::of(&parsed(&format!("({component})")), &message), None, "{component}");
        // Whatever else it covers.
        let mut signer = Signer::new();
        let good = format!(r#"({ALL});created={NOW};keyid="k""#);
        signer.sign(&good, &message);
        let more = format!(r#"s=({ALL} {component});created={NOW};keyid="k""#);
        signer.headers.insert(SIGNATURE_INPUT, HeaderValue::from_str(&more).unwrap());
        let found =
            check(&signer.keys(), &wanted(), &Message { headers: &signer.headers, ..message }, NOW);
        assert_eq!(found, Err(Fault::Invalid), "{component}");
    }
}

/// RFC 9421, 2.3: whatever parameters there are, all of them are signed, as they are.
#[test]
fn unknown_parameters_are_signed_too() {
    let none = HeaderMap::new();
    let message = request(&none);
    let input = format!(
        r#"({ALL});x-new;odd=tok/en;keyid="k";bin=:AAE=:;created={NOW};n=-1.50;no=?0;s="a\\\"b""#
    );
    let mut signer = Signer::new();
    signer.sign(&input, &message);
    let verdict = |input: &str, headers: &HeaderMap| {
        let mut headers = headers.clone();
        let value = HeaderValue::from_str(&format!("s={input}")).unwrap();
        headers.insert(SIGNATURE_INPUT, value);
        check(&signer.keys(), &wanted(), &Message { headers: &headers, ..message }, NOW)
    };
    let found = verdict(&input, &signer.headers).unwrap().unwrap();
    // Another spelling of the same is the same (RFC 9651, 4.1).
    let spelled = input.replace(";n=-1.50", "; n=-1.5").replace("x-new", "x-new=?1");
    assert_eq!(verdict(&spelled, &signer.headers), Ok(Some(found)));
    for (from, to) in [
        (";x-new", ""),
        (";x-new", ";x-new=1"),
        (";odd=tok/en;keyid", ";keyid"),
        ("tok/en", "\"tok/en\""),
        ("AAE", "AAI"),
        (";no=?0", ""),
        ("\\\"b", "b"),
        (";created", ";more;created"),
    ] {
        let changed = input.replacen(from, to, 1);
        assert_ne!(changed, input);
        assert_eq!(verdict(&changed, &signer.headers), Err(Fault::Invalid), "{changed}");
    }
}

/// Of two with one label, nobody knows which is meant; of two with two, the one by a known key.
#[test]
fn labels_name_one_signature_each() {
    let none = HeaderMap::new();
    let message = request(&none);
    let mut signer = Signer::new();
    let input = format!(r#"({ALL});created={NOW};keyid="k""#);
    signer.sign(&input, &message);
    let good = signer.headers.clone();
    let signature = good[SIGNATURE].to_str().unwrap().strip_prefix("s=").unwrap().to_owned();
    let keys = signer.keys();
    let verdict = |inputs: &str, signatures: &str| {
        let mut headers = good.clone();
        headers.insert(SIGNATURE_INPUT, HeaderValue::from_str(inputs).unwrap());
        headers.insert(SIGNATURE, HeaderValue::from_str(signatures).unwrap());
        check(&keys, &wanted(), &Message { headers: &headers, ..message }, NOW)
    };
    let found = check(&keys, &wanted(), &Message { headers: &good, ..message }, NOW).unwrap();
    for (inputs, signatures, is_good) in [
        // The label says nothing, and is not signed.
        (format!("other={input}"), format!("other={signature}"), true),
        (format!("s={input}"), format!("a=:AAAA:, s={signature}, z=:AAAA:"), true),
        (format!("a=();keyid=\"x\", s={input}"), format!("s={signature}"), true),
        (format!("s={input}"), format!("other={signature}"), false),
        (format!("other={input}"), format!("s={signature}"), false),
        (format!("a=();keyid=\"x\", s={input}"), format!("a={signature}"), false),
        (format!("s={input}, s={input}"), format!("s={signature}"), false),
        (format!("s=();keyid=\"x\", s={input}"), format!("s={signature}"), false),
        (format!("s={input}"), format!("s=:AAAA:, s={signature}"), false),
        (format!("s={input}"), format!("s={signature}, s={signature}"), false),
        (format!("s={input}, t={input}"), format!("s={signature}, t={signature}"), false),
        (format!("s={input}, t=1"), format!("s={signature}"), false),
        (format!("s={input}, t=();keyid=1"), format!("s={signature}"), false),
    ] {
        let verdict = verdict(&inputs, &signatures);
        assert_eq!(verdict, if is_good { Ok(found) } else { Err(Fault::Invalid) }, "{inputs}");
    }
}
