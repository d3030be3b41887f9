//! Trace context (W3C Trace Context, 2021): passed on if it is well formed, else taken out.
//!
//! In: the headers of a request; out: the same, in which an upstream finds no `traceparent` that
//! it could read differently, and no `tracestate` without one or beyond its bounds.

use http::{HeaderMap, HeaderName, HeaderValue};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Bytes of a `traceparent` of version 00, and of what every later version begins with.
const PARENT_BYTES: usize = 55;
/// Longest `traceparent` of a later version that is passed on.
const MAX_PARENT_BYTES: usize = 256;
/// Members and bytes of all `tracestate` fields together (3.3.1.5 asks to pass 512 bytes on).
const MAX_MEMBERS: usize = 32;
const MAX_STATE_BYTES: usize = 1_024;

/// Takes out what is not well formed.
pub(in crate::proxy) fn sanitise(headers: &mut HeaderMap) {
    // Most requests have neither.
    if !headers.keys().any(|name| name.as_str().starts_with("trace")) {
        return;
    }
    if trace_id(headers).is_none() {
        headers.remove(&TRACEPARENT);
        headers.remove(&TRACESTATE);
    } else if !is_state(headers) {
        headers.remove(&TRACESTATE);
    }
}

/// The trace that a request belongs to: 32 hexadecimal digits.
pub(in crate::proxy) fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(&TRACEPARENT).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    parent(value)
}

/// `version-traceid-parentid-flags`, lower-case digits; later versions may go on after a dash.
fn parent(value: &HeaderValue) -> Option<&str> {
    let text = value.to_str().ok().filter(|text| text.len() <= MAX_PARENT_BYTES)?;
    let (known, rest) = text.split_at_checked(PARENT_BYTES)?;
    let is_hex = |part: &str| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let mut parts = known.split('-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let lengths = [version.len(), trace.len(), span.len(), flags.len()];
    let is_zero = |part: &str| part.bytes().all(|byte| byte == b'0');
    let is_well_formed = lengths == [2, 32, 16, 2]
        && parts.next().is_none()
        && [version, trace, span, flags].into_iter().all(is_hex)
        && !is_zero(trace)
        && !is_zero(span)
        && match version {
            "00" => rest.is_empty(),
            "ff" => false,
            _ => rest.is_empty() || rest.starts_with('-'),
        };
    is_well_formed.then_some(trace)
}

/// Members are `key=value`; empty ones are allowed.
fn is_state(headers: &HeaderMap) -> bool {
    let (mut members, mut bytes) = (0, 0);
    headers.get_all(&TRACESTATE).iter().all(|value| {
        let Ok(text) = value.to_str() else {
            return false;
        };
        bytes += text.len();
        bytes <= MAX_STATE_BYTES
            && text.split(',').map(|member| member.trim_matches([' ', '\t'])).all(|member| {
                members += usize::from(!member.is_empty());
                members <= MAX_MEMBERS && (member.is_empty() || is_member(member))
            })
    })
}

fn is_member(member: &str) -> bool {
    let Some((key, value)) = member.split_once('=') else {
        return false;
    };
    let of_key =
        |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@');
    let of_value = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'=';
    (1..=256).contains(&key.len())
        && key.bytes().all(of_key)
        && (1..=256).contains(&value.len())
        && value.bytes().all(of_value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn left(fields: &[(&'static str, &str)]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let value = HeaderValue::from_str(value).unwrap();
            headers.append(HeaderName::from_static(name), value);
        }
        sanitise(&mut headers);
        headers.keys().map(ToString::to_string).collect()
    }

    #[test]
    fn parents() {
        let is_kept = |parent: &str| !left(&[("traceparent", parent)]).is_empty();
        assert!(is_kept(PARENT));
        assert!(is_kept(&PARENT.replacen("00", "01", 1)), "a later version");
        assert!(is_kept(&format!("{}-more", PARENT.replacen("00", "cc", 1))));
        for bad in [
            String::new(),
            "x".to_owned(),
            PARENT.to_uppercase(),
            PARENT.replacen("00", "ff", 1),
            format!("{PARENT}-more"),
            format!("{}x", PARENT.replacen("00", "01", 1)),
            format!("{}-{}", PARENT.replacen("00", "01", 1), "x".repeat(300)),
            PARENT.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            PARENT.replace("b7ad6b7169203331", &"0".repeat(16)),
            PARENT.replace("-b7", "b-7"),
            PARENT.replace("0af7", "0ag7"),
        ] {
            assert!(!is_kept(&bad), "{bad}");
        }
        assert!(left(&[("traceparent", PARENT), ("traceparent", PARENT)]).is_empty(), "twice");
    }

    #[test]
    fn states() {
        let is_kept =
            |state: &str| left(&[("traceparent", PARENT), ("tracestate", state)]).len() == 2;
        let many = |members: usize| vec!["a=b"; members].join(",");
        for good in ["congo=t61rcWkgMzE", "a@b=1, c=2 ,,", "", &many(32)] {
            assert!(is_kept(good), "{good}");
        }
        let long = format!("a={0},b={0},c={0},d={0},e={0}", "x".repeat(250));
        for bad in ["a", "A=1", "a=", "=1", "a=b=c", &many(33), &long] {
            assert!(!is_kept(bad), "{bad}");
        }
        assert!(left(&[("tracestate", "a=b")]).is_empty(), "without a parent");
    }
}
