//! Published cases of structured fields (RFC 9651): each is read or refused, and written anew, as
//! its source says.

use serde_json::Value;

use super::super::base;

const VECTORS: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../tests/data/structured-fields/vectors.json"
));

/// Lines of a field as one.
fn joined(lines: &Value) -> String {
    let lines: Vec<&str> =
        lines.as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    lines.join(", ")
}

#[test]
fn published_cases() {
    let cases: Vec<Value> = serde_json::from_str(VECTORS).unwrap();
    let mut counts = [0; 3];
    for case in &cases {
        let (what, lines) = (&case[0], &case[2]);
        let name = match case[1].as_str().unwrap() {
            "dictionary" => "priority",
            "list" => "cache-status",
            "item" => "client-cert",
            other => panic!("{other}"),
        };
        let written = base::structured(name, joined(lines).as_bytes());
        let outcome = case[3].as_str().unwrap();
        counts[["ok", "may", "fail"].iter().position(|known| *known == outcome).unwrap()] += 1;
        assert!(written.is_none() || outcome != "fail", "{what} is to be refused: {lines}");
        assert!(written.is_some() || outcome != "ok", "{what} is to be read: {lines}");
        let again = case.get(4).unwrap_or(lines);
        if let Some(written) = written {
            let written = String::from_utf8(written).unwrap();
            assert_eq!(written, joined(again), "{what}: {lines}");
            // What is written is read as the same.
            let same = base::structured(name, written.as_bytes());
            assert_eq!(same, Some(written.into_bytes()), "{what}");
        }
    }
    assert_eq!(counts, [721, 6, 864]);
}
