//! Which media type a client prefers, by its `Accept` field (RFC 9110, 12.5.1): only what it names
//! itself counts, since a wildcard says that it does not care.

use http::{HeaderMap, header};

/// Whether the client names this type and prefers it to `text/plain` and `*/*`.
pub(super) fn wants(headers: &HeaderMap, media_type: &str) -> bool {
    let (mut wanted, mut other) = (None, 0);
    for value in headers.get_all(header::ACCEPT) {
        for range in value.to_str().unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let quality = parts.find_map(|part| part.strip_prefix("q=")).map_or(1000, thousandths);
            if name.eq_ignore_ascii_case(media_type) {
                wanted = wanted.max(Some(quality));
            } else {
                other = other.max(quality);
            }
        }
    }
    wanted.is_some_and(|quality| quality > 0 && quality >= other)
}

/// `0.75` as 750; nonsense as 0.
fn thousandths(quality: &str) -> u32 {
    let (whole, fraction) = quality.split_once('.').unwrap_or((quality, ""));
    let digits = format!("{fraction:0<3}");
    match (whole.parse::<u32>(), digits.get(..3).map(str::parse::<u32>)) {
        (Ok(whole @ 0..=1), Some(Ok(fraction))) => (whole * 1000 + fraction).min(1000),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wants_openmetrics(accept: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        wants(&headers, "application/openmetrics-text")
    }

    #[test]
    fn what_is_named_and_preferred() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,\
                          text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        assert!(wants_openmetrics(prometheus));
        assert!(wants_openmetrics("application/openmetrics-text"));
        assert!(!wants_openmetrics("*/*"), "curl");
        assert!(!wants_openmetrics("text/plain, application/openmetrics-text;q=0.9"));
        assert!(!wants_openmetrics("application/openmetrics-text;q=0"));
        assert!(!wants_openmetrics("application/openmetrics-text;q=x"));
        assert!(!wants(&HeaderMap::new(), "text/event-stream"));
    }
}
