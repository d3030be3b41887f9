//! What clients and the limiter report, as sentences that can be compared: JSON in, text out.

use anyhow::Result;
use serde_json::Value;

/// The same sentence as the tally of what was sent, of a status document.
pub(super) fn count_of(status: &Value) -> String {
    let refused = status["refused"].as_object().into_iter().flatten();
    let refused: Vec<String> = refused
        .filter(|(_, count)| count.as_u64() != Some(0))
        .map(|(label, count)| format!("{label} {count}"))
        .collect();
    let (requests, forwarded) = (&status["requests"], &status["forwarded"]);
    format!("{requests} requests, {forwarded} sent upstream, {}", refused.join(", "))
}

/// The entry of a list about this address, with or without a prefix length.
pub(super) fn find<'value>(list: &'value Value, key: &str, address: &str) -> Option<&'value Value> {
    list.as_array()?.iter().find(|entry| {
        let text = entry[key].as_str().unwrap_or_default();
        text.split('/').next() == Some(address)
    })
}

/// `10 x 200, 5 x 429 with Retry-After` from a client's lines: answers in the order of their first
/// appearance, and which of them have `field`.
pub(super) fn summary(output: &str, field: &str) -> Result<String> {
    let mut counts: Vec<(String, u32)> = Vec::new();
    for line in output.lines() {
        let answer: Value = serde_json::from_str(line)?;
        let error = || answer["error"].as_str().unwrap_or_default().split(':').next();
        let mut kind = answer["status"]
            .as_u64()
            .map_or_else(|| error().unwrap_or_default().to_owned(), |status| status.to_string());
        if answer["fields"].get(field).is_some() {
            kind = format!("{kind} with {}", capitalised(field));
        }
        match counts.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, count)) => *count += 1,
            None => counts.push((kind, 1)),
        }
    }
    let counts: Vec<String> =
        counts.into_iter().map(|(kind, count)| format!("{count} x {kind}")).collect();
    Ok(counts.join(", "))
}

/// `retry-after` as `Retry-After`, `www-authenticate` as `WWW-Authenticate`.
fn capitalised(field: &str) -> String {
    let words = field.split('-').map(|word| match word.split_at_checked(1) {
        _ if word == "www" => "WWW".to_owned(),
        Some((first, rest)) => first.to_ascii_uppercase() + rest,
        None => String::new(),
    });
    words.collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_are_summed_up_in_order() {
        let lines = "{\"status\":200,\"fields\":{}}\n{\"status\":200,\"fields\":{}}\n\
                     {\"status\":429,\"fields\":{\"retry-after\":\"5\"}}\n\
                     {\"error\":\"no connection: timed out\"}\n";
        let text = summary(lines, "retry-after").unwrap();
        assert_eq!(text, "2 x 200, 1 x 429 with Retry-After, 1 x no connection");
        assert_eq!(summary("", "").unwrap(), "");
        assert_eq!(capitalised("www-authenticate"), "WWW-Authenticate");
    }

    #[test]
    fn counters_read_like_the_tally() {
        let status = json!({
            "requests": 9, "forwarded": 4, "refused": { "a": 2, "b": 0, "c": 1 }
        });
        assert_eq!(count_of(&status), "9 requests, 4 sent upstream, a 2, c 1");
    }

    #[test]
    fn entries_are_found_by_address() {
        let list = json!([{ "prefix": "192.0.2.60/32" }, { "prefix": "192.0.2.6/32" }]);
        assert_eq!(find(&list, "prefix", "192.0.2.6"), list.get(1));
        assert_eq!(find(&list, "prefix", "192.0.2.0"), None);
    }
}
