//! What a body may be: a request with a body says one of the route's media types.
//!
//! A chunked body is one, too, and so is one of which nothing has come yet.

use http::{Method, header::CONTENT_TYPE, request::Parts};

use crate::{proxy::compiled::Route, refusal::Refusal};

/// Checks a request to write (`POST`, `PUT`, `PATCH`) that has a body.
pub(in crate::proxy) fn check(route: &Route, parts: &Parts, has_body: bool) -> Result<(), Refusal> {
    let writes = [Method::POST, Method::PUT, Method::PATCH].contains(&parts.method);
    if route.content_types.is_empty() || !writes || !has_body {
        return Ok(());
    }
    let mut said = parts.headers.get_all(CONTENT_TYPE).iter();
    let essence = said.next().filter(|_| said.next().is_none()).map(|value| {
        let end = value.as_bytes().iter().position(|byte| *byte == b';');
        value.as_bytes()[..end.unwrap_or(value.len())].trim_ascii()
    });
    let admitted = essence.is_some_and(|essence| {
        route.content_types.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(essence))
    });
    if admitted { Ok(()) } else { Err(Refusal::UnsupportedMediaType) }
}
