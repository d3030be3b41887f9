//! The request id: the client's if it is well formed, else a new one (`UUIDv7`, RFC 9562).

use std::cell::RefCell;

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue};

/// Where ids are cut from, at a time.
const ROOM_BYTES: usize = 4096;

/// Carries the id in requests, upstream requests and responses.
pub(in crate::proxy) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Ids are `[A-Za-z0-9._-]`, 1 to 128 of them, so that they need no escaping anywhere. `room`: what
/// is left of the memory for those that are made.
pub(in crate::proxy) fn take_or_make(
    headers: &HeaderMap,
    unix_ns: u64,
    random: impl FnOnce() -> [u8; 10],
    room: &RefCell<BytesMut>,
) -> HeaderValue {
    let mut sent = headers.get_all(&X_REQUEST_ID).iter();
    if let (Some(id), None) = (sent.next(), sent.next())
        && (1..=128).contains(&id.len())
        && id.as_bytes().iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte))
    {
        return id.clone();
    }
    let id = uuid::Builder::from_unix_timestamp_millis(unix_ns / 1_000_000, &random()).into_uuid();
    let mut buffer = uuid::Uuid::encode_buffer();
    let text = id.hyphenated().encode_lower(&mut buffer);
    // One piece of memory does for many, and a copy of one costs no more than counting it.
    let mut room = room.borrow_mut();
    if room.capacity() < text.len() {
        room.reserve(ROOM_BYTES);
    }
    room.extend_from_slice(text.as_bytes());
    let value = HeaderValue::from_maybe_shared(room.split().freeze());
    value.unwrap_or_else(|_| HeaderValue::from_static("00000000"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        let id = |sent: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in sent {
                headers.append(X_REQUEST_ID, HeaderValue::from_static(value));
            }
            let room = RefCell::default();
            let id = take_or_make(&headers, 1_700_000_000_000_000_000, || [7; 10], &room);
            id.to_str().unwrap().to_owned()
        };
        for good in ["abcDEF.0_-9", "7"] {
            assert_eq!(id(&[good]), good);
        }
        let made = id(&[]);
        assert_eq!((made.len(), made.as_bytes()[14]), (36, b'7'));
        for bad in ["", "has space in it", "quote\"quote\"", "slash/slash/"] {
            assert_eq!(id(&[bad]), made, "{bad}");
        }
        assert_eq!(id(&["abcdefgh", "abcdefgh"]), made);
    }
}
