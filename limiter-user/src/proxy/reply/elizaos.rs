//! Refusals in the words of an ElizaOS server: in goes a refusal and the limit behind it, out come
//! status, media type and body as that server's clients know them. Never says why inside.
//!
//! Three shapes, as there: what its key check says, `success` and `error` of its routes (codes in
//! words) and of its error handler (codes as numbers), and plain text beside the API.

use bytes::Bytes;
use http::StatusCode;

use crate::refusal::Refusal;

/// An answer.
#[derive(Debug)]
pub(super) struct Words {
    pub(super) status: u16,
    pub(super) media_type: &'static str,
    pub(super) body: Bytes,
}

const JSON: &str = "application/json; charset=utf-8";

/// A body with a code in words.
macro_rules! coded {
    ($code:literal, $message:literal) => {
        concat!(
            "{\"success\":false,\"error\":{\"code\":\"",
            $code,
            "\",\"message\":\"",
            $message,
            "\"}}"
        )
    };
}

/// Words for a refusal, by a limit if it was one.
pub(super) fn words(refusal: Refusal, limit: Option<&str>, asks_token: bool) -> Words {
    let json = |status, body: &'static str| Words {
        status,
        media_type: JSON,
        body: Bytes::from_static(body.as_bytes()),
    };
    let status = refusal.status();
    match refusal {
        Refusal::Unauthorized if asks_token => {
            json(status, "{\"error\":\"JWT token required for data isolation\"}")
        }
        Refusal::InvalidCredential if asks_token => json(
            status,
            "{\"error\":\"Invalid JWT token\",\"details\":\"JWT verification failed\"}",
        ),
        Refusal::Unauthorized | Refusal::InvalidCredential => json(
            status,
            "{\"error\":\"API key required\",\"message\":\"Missing or invalid X-API-KEY header\"}",
        ),
        Refusal::RateLimited | Refusal::RateLimitedFar => json(status, limited(limit)),
        Refusal::Guarded => json(status, limited(Some("authentication"))),
        // As that server without its web UI, which then serves nothing but its API.
        Refusal::NotFound => Words {
            status: 403,
            media_type: "text/plain; charset=utf-8",
            body: Bytes::from_static(b"Forbidden"),
        },
        Refusal::UnsupportedMediaType => {
            json(400, coded!("INVALID_CONTENT_TYPE", "Invalid or missing Content-Type header"))
        }
        Refusal::MalformedRequest => json(status, coded!("BAD_REQUEST", "Malformed request")),
        Refusal::BodyTooLarge => json(
            status,
            "{\"success\":false,\"error\":{\"message\":\"request entity too large\",\"code\":413}}",
        ),
        Refusal::Timeout => json(status, coded!("TIMEOUT", "The request did not arrive in time")),
        Refusal::Banned | Refusal::ForbiddenAddress => {
            json(status, coded!("FORBIDDEN", "Access denied"))
        }
        Refusal::CorsRefused => json(status, coded!("CORS_REFUSED", "Origin not allowed")),
        // What that server never says itself, as it would.
        _ => Words { status, media_type: JSON, body: by_status(status) },
    }
}

/// As its error handler: the status twice.
fn by_status(status: u16) -> Bytes {
    let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    let message = reason.unwrap_or("Refused");
    let body =
        format!("{{\"success\":false,\"error\":{{\"message\":\"{message}\",\"code\":{status}}}}}");
    Bytes::from(body)
}

/// By the name of the limit.
fn limited(name: Option<&str>) -> &'static str {
    match name {
        Some("file-system") => {
            coded!("FILE_RATE_LIMIT_EXCEEDED", "Too many file operations. Please try again later.")
        }
        Some("upload") => coded!(
            "UPLOAD_RATE_LIMIT_EXCEEDED",
            "Too many upload attempts. Please try again later."
        ),
        Some("authentication") => coded!(
            "AUTH_RATE_LIMIT_EXCEEDED",
            "Too many authentication attempts. Please try again later."
        ),
        Some("channel-validation") => coded!(
            "CHANNEL_VALIDATION_RATE_LIMIT_EXCEEDED",
            "Too many channel validation attempts. Please try again later."
        ),
        _ => coded!("RATE_LIMIT_EXCEEDED", "Too many requests. Please try again later."),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn json(refusal: Refusal, limit: Option<&str>) -> (u16, Value) {
        let words = words(refusal, limit, false);
        (words.status, serde_json::from_slice(&words.body).unwrap())
    }

    #[test]
    fn every_refusal_is_json_but_for_paths_beside_the_api() {
        for refusal in Refusal::ALL {
            if *refusal == Refusal::NotFound {
                continue;
            }
            let (status, body) = json(*refusal, None);
            assert!((400..600).contains(&status), "{refusal:?}");
            let error = &body["error"];
            let says = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
            assert!(says(error) || says(&error["message"]), "{body}");
            if error.is_object() {
                assert_eq!(body["success"], false);
                assert!(says(&error["code"]) || error["code"] == status, "{body}");
            }
        }
    }

    #[test]
    fn limits_have_the_codes_of_that_server() {
        for (limit, code, message) in [
            (Some("api"), "RATE_LIMIT_EXCEEDED", "Too many requests. "),
            (None, "RATE_LIMIT_EXCEEDED", "Too many requests. "),
            (Some("file-system"), "FILE_RATE_LIMIT_EXCEEDED", "Too many file operations. "),
            (Some("upload"), "UPLOAD_RATE_LIMIT_EXCEEDED", "Too many upload attempts. "),
            (
                Some("authentication"),
                "AUTH_RATE_LIMIT_EXCEEDED",
                "Too many authentication attempts. ",
            ),
            (
                Some("channel-validation"),
                "CHANNEL_VALIDATION_RATE_LIMIT_EXCEEDED",
                "Too many channel validation attempts. ",
            ),
        ] {
            let (status, body) = json(Refusal::RateLimited, limit);
            assert_eq!((status, &body["error"]["code"]), (429, &Value::from(code)));
            let message = format!("{message}Please try again later.");
            assert_eq!(body["error"]["message"], message);
        }
        assert_eq!(json(Refusal::Guarded, None).1["error"]["code"], "AUTH_RATE_LIMIT_EXCEEDED");
    }

    #[test]
    fn tokens_are_asked_for_as_such() {
        for (refusal, error) in [
            (Refusal::Unauthorized, "JWT token required for data isolation"),
            (Refusal::InvalidCredential, "Invalid JWT token"),
        ] {
            let words = words(refusal, None, true);
            let body: Value = serde_json::from_slice(&words.body).unwrap();
            assert_eq!((words.status, &body["error"]), (401, &Value::from(error)));
        }
    }

    #[test]
    fn media_types_are_a_bad_request_there_and_pages_forbidden() {
        let (status, body) = json(Refusal::UnsupportedMediaType, None);
        assert_eq!((status, &body["error"]["code"]), (400, &"INVALID_CONTENT_TYPE".into()));
        let words = words(Refusal::NotFound, None, false);
        assert_eq!((words.status, &*words.body), (403, &b"Forbidden"[..]));
    }
}
