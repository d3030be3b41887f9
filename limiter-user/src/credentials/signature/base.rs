//! What a signature is made over (RFC 9421, 2.5), from the request as it was received.
//!
//! A component that is not there, or that has no single meaning, makes the whole base impossible:
//! nothing is guessed.

use http::HeaderName;
use sfv::{
    BareItem, Dictionary, InnerList, Item, ItemSerializer, List, ListEntry, ListSerializer,
    Parameters, Parser,
};

use super::Message;
use crate::credentials::fields::{combined, dictionary};

/// Bytes of a base; a head has fewer, but components can repeat it.
const MAX_BYTES: usize = 128 * 1024;

/// Fields with a structure that is known here, for `sf`: dictionaries, then lists, then items.
const DICTIONARIES: [&str; 7] = [
    "content-digest",
    "priority",
    "repr-digest",
    "signature",
    "signature-input",
    "want-content-digest",
    "want-repr-digest",
];
const LISTS: [&str; 5] =
    ["accept-ch", "cache-status", "client-cert-chain", "proxy-status", "sec-ch-ua"];
const ITEMS: [&str; 4] =
    ["client-cert", "idempotency-key", "origin-agent-cluster", "sec-ch-ua-mobile"];

/// The base of a signature that covers this.
pub(super) fn of(covered: &InnerList, message: &Message<'_>) -> Option<Vec<u8>> {
    let mut base = Vec::with_capacity(512);
    for (index, item) in covered.items.iter().enumerate() {
        if covered.items[..index].contains(item) {
            return None;
        }
        let BareItem::String(name) = &item.bare_item else { return None };
        let value = component(name.as_str(), &item.params, message)?;
        let identifier =
            ItemSerializer::new().bare_item(&item.bare_item).parameters(&item.params).finish();
        base.extend_from_slice(identifier.as_bytes());
        base.extend_from_slice(b": ");
        base.extend_from_slice(&value);
        base.push(b'\n');
        if base.len() > MAX_BYTES {
            return None;
        }
    }
    base.extend_from_slice(b"\"@signature-params\": ");
    base.extend_from_slice(serialised(covered)?.as_bytes());
    Some(base)
}

fn serialised(list: &InnerList) -> Option<String> {
    let mut whole = ListSerializer::new();
    let mut inner = whole.inner_list();
    inner.items(&list.items);
    inner.finish().parameters(&list.params);
    whole.finish()
}

/// The value of one component: visible ASCII, blanks and tabs.
fn component(name: &str, parameters: &Parameters, message: &Message<'_>) -> Option<Vec<u8>> {
    let value = match name.strip_prefix('@') {
        Some(derived) => self::derived(derived, parameters, message)?.into_bytes(),
        None => field(name, parameters, message)?,
    };
    value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~')).then_some(value)
}

/// RFC 9421, 2.2.
fn derived(name: &str, parameters: &Parameters, message: &Message<'_>) -> Option<String> {
    if name == "query-param" {
        let (key, value) = parameters.first()?;
        return match value {
            BareItem::String(wanted) if key.as_str() == "name" && parameters.len() == 1 => {
                query_parameter(message.query.unwrap_or_default(), wanted.as_str())
            }
            _ => None,
        };
    }
    if !parameters.is_empty() {
        return None;
    }
    let query = message.query.map(|query| format!("?{query}")).unwrap_or_default();
    let authority = authority(message);
    match name {
        "method" => Some(message.method.to_owned()),
        "target-uri" => Some(format!("{}://{authority}{}{query}", message.scheme, message.path)),
        "authority" => Some(authority),
        "scheme" => Some(message.scheme.to_owned()),
        "request-target" => {
            let relative = || format!("{}{query}", message.path);
            Some(message.absolute.map_or_else(relative, str::to_owned))
        }
        "path" => Some(message.path.to_owned()),
        "query" => Some(if query.is_empty() { "?".to_owned() } else { query }),
        _ => None,
    }
}

/// Lower case, without the port that the scheme implies.
fn authority(message: &Message<'_>) -> String {
    let lower = message.authority.to_ascii_lowercase();
    let implied = if message.scheme == "https" { ":443" } else { ":80" };
    lower.strip_suffix(implied).map(str::to_owned).unwrap_or(lower)
}

/// RFC 9421, 2.2.8: the only parameter of this name, decoded and encoded anew.
fn query_parameter(query: &str, wanted: &str) -> Option<String> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let mut found = pairs.filter_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (encoded(name)? == wanted).then(|| encoded(value))
    });
    match (found.next(), found.next()) {
        (Some(value), None) => value,
        _ => None,
    }
}

/// Decoded as a form's, encoded as the URL standard's `application/x-www-form-urlencoded` set says,
/// with blanks as `%20`. `None`: not UTF-8, which decoding would replace.
fn encoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        let hex =
            |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        match (first, after) {
            (b'+', _) => bytes.push(b' '),
            (b'%', &[high, low, ref after @ ..])
                if let (Some(high), Some(low)) = (hex(high), hex(low)) =>
            {
                bytes.push(high << 4 | low);
                rest = after;
            }
            _ => bytes.push(first),
        }
    }
    std::str::from_utf8(&bytes).ok()?;
    let mut encoded = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"*-._".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.extend(percent(byte));
        }
    }
    Some(encoded)
}

fn percent(byte: u8) -> [char; 3] {
    let digit = |nibble: u8| char::from(b"0123456789ABCDEF"[usize::from(nibble)]);
    ['%', digit(byte >> 4), digit(byte & 15)]
}

/// RFC 9421, 2.1.
fn field(name: &str, parameters: &Parameters, message: &Message<'_>) -> Option<Vec<u8>> {
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    let header = HeaderName::from_bytes(name.as_bytes()).ok()?;
    let whole = combined(message.headers, &header)?;
    let mut parameters = parameters.iter();
    let Some((parameter, value)) = parameters.next() else { return Some(whole.into_owned()) };
    if parameters.next().is_some() {
        return None;
    }
    match (parameter.as_str(), value) {
        ("bs", BareItem::Boolean(true)) => {
            let mut list = ListSerializer::new();
            for value in message.headers.get_all(&header) {
                list.bare_item(value.as_bytes().trim_ascii());
            }
            list.finish().map(String::into_bytes)
        }
        ("sf", BareItem::Boolean(true)) => structured(name, &whole),
        ("key", BareItem::String(key)) => {
            let members = dictionary(&whole)?;
            let mut list = ListSerializer::new();
            list.members([members.get(key.as_str())?]);
            list.finish().map(String::into_bytes)
        }
        _ => None,
    }
}

pub(super) fn structured(name: &str, whole: &[u8]) -> Option<Vec<u8>> {
    let parser = Parser::new(whole);
    let text = if DICTIONARIES.contains(&name) {
        let mut serializer = sfv::DictSerializer::new();
        let members: Dictionary = parser.parse().ok()?;
        serializer.members(&members);
        serializer.finish().unwrap_or_default()
    } else if LISTS.contains(&name) {
        let mut serializer = ListSerializer::new();
        let members: List = parser.parse().ok()?;
        serializer.members(&members);
        serializer.finish().unwrap_or_default()
    } else if ITEMS.contains(&name) {
        let item: Item = parser.parse().ok()?;
        let mut serializer = ListSerializer::new();
        serializer.members([&ListEntry::Item(item)]);
        serializer.finish().unwrap_or_default()
    } else {
        return None;
    };
    Some(text.into_bytes())
}
