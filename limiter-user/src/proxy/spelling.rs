//! Names of fields that an upstream could take for one another: CGI-like ones read `_` as `-`.
//!
//! In: names that are not a client's to say; out: a head, or trailers, without them, however they
//! are spelled.

use http::{HeaderMap, HeaderName};

/// Removes the fields of these names, and those that could be taken for them.
pub(super) fn take<'a>(
    headers: &mut HeaderMap,
    names: &(impl Iterator<Item = &'a HeaderName> + Clone),
) {
    if names.clone().next().is_none() {
        return;
    }
    for name in names.clone() {
        headers.remove(name);
    }
    // Hardly any name has one.
    let has_line = |name: &HeaderName| name.as_str().contains('_');
    if headers.keys().any(has_line) || names.clone().any(has_line) {
        let is_one = |name: &&HeaderName| names.clone().any(|taken| is_read_as(name, taken));
        let others: Vec<HeaderName> = headers.keys().filter(is_one).cloned().collect();
        for name in others {
            headers.remove(name);
        }
    }
}

fn is_read_as(name: &HeaderName, other: &HeaderName) -> bool {
    let letter = |byte: u8| if byte == b'_' { b'-' } else { byte };
    name.as_str().bytes().map(letter).eq(other.as_str().bytes().map(letter))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn however_it_is_spelled_it_goes() {
        let names = ["x-api-key", "x_tenant_id", "x-kept"].map(HeaderName::from_static);
        let mut headers = HeaderMap::new();
        for name in [
            "x-api-key",
            "x_api-key",
            "x_api_key",
            "x-tenant-id",
            "x_tenant-id",
            "x-kept-too",
            "x-api",
            "x_other",
        ] {
            headers.append(name, HeaderValue::from_static("1"));
        }
        take(&mut headers, &names.iter());
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["x-api", "x-kept-too", "x_other"]);
    }
}
