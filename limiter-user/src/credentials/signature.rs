//! Signed requests (RFC 9421): which of a request's signatures counts, and whether it is right.
//!
//! In: a request's head, keys by name, what a signature has to cover, the time; out: the key that
//! signed, and what tells this message from every other. A signature that covers too little is as
//! wrong as one that does not verify. Whether the body is the one that was signed for is
//! [`super::digest`]'s to say, whether it comes for the first time [`super::replay`]'s.

mod base;
mod key;

use http::{HeaderMap, HeaderName};
use sfv::{BareItem, Dictionary, InnerList, Item, ListEntry, Parser};

pub use self::key::{ALGORITHMS, Key, KeyError};
use super::{
    digest::CONTENT_DIGEST,
    fields::{combined, dictionary},
    replay::Fingerprint,
};
use crate::keys;

/// Where signatures say what they cover.
pub const SIGNATURE_INPUT: HeaderName = HeaderName::from_static("signature-input");
/// The signatures.
pub const SIGNATURE: HeaderName = HeaderName::from_static("signature");

/// Components that one signature covers, and signatures of one request.
const MAX_COMPONENTS: usize = 64;
const MAX_SIGNATURES: usize = 8;

/// How far a signer's clock may be ahead. It makes messages no older than `tolerance` says: they
/// are remembered from the moment at which they were made.
pub const MAX_AHEAD_SECONDS: u64 = 30;

/// The head of a request, as its client sent it.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// As sent.
    pub method: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Host and port as sent.
    pub authority: &'a str,
    /// As sent, `/` at least.
    pub path: &'a str,
    /// As sent, without the question mark; `None`: there is none.
    pub query: Option<&'a str>,
    /// The whole target, if the request line has an absolute one (RFC 9112, 3.2.2).
    pub absolute: Option<&'a str>,
    /// All fields as sent.
    pub headers: &'a HeaderMap,
    /// Whether there is, or may be, a body.
    pub has_body: bool,
}

/// What a signature has to be like.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Requirements {
    /// Seconds for which a message is accepted after it was signed.
    pub tolerance_seconds: u64,
    /// Components that every signature covers, beside those that say what is asked for.
    pub components: Vec<String>,
    /// Only signatures with this tag count; `None`: all do.
    pub tag: Option<String>,
}

/// Why a request that has signatures is not signed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// It was signed too long ago, expired, or is from the future; the signature was not checked.
    Expired,
    /// There is none by a key that counts, it covers too little, or it is wrong.
    Invalid,
}

/// A signature that counts and is right.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Verified {
    /// Index of the key.
    pub key: usize,
    /// When it was made, in Unix seconds.
    pub created: u64,
    /// Whether it covers `Content-Digest`, so that the body has to be the one that this describes.
    pub covers_digest: bool,
    /// Of all that is signed, and of the name of the key.
    pub fingerprint: Fingerprint,
}

/// A key with its name.
#[derive(Debug)]
pub struct NamedKey {
    /// `keyid`.
    pub id: String,
    /// The key.
    pub key: Key,
}

/// Checks the signature of a request; `Ok(None)`: it has none. Exactly one signature may be by a
/// known key (and have the tag): more would leave open whose the request is.
pub fn check(
    keys: &[NamedKey],
    requirements: &Requirements,
    message: &Message<'_>,
    now: u64,
) -> Result<Option<Verified>, Fault> {
    let Some(input) = combined(message.headers, &SIGNATURE_INPUT) else { return Ok(None) };
    let input = dictionary(&input).ok_or(Fault::Invalid)?;
    if input.len() > MAX_SIGNATURES {
        return Err(Fault::Invalid);
    }
    let mut chosen = None;
    for (label, member) in &input {
        let ListEntry::InnerList(covered) = member else { return Err(Fault::Invalid) };
        let tag = text(covered, "tag")?;
        if requirements.tag.as_deref().is_some_and(|wanted| tag != Some(wanted)) {
            continue;
        }
        let id = text(covered, "keyid")?;
        let known = keys.iter().position(|key| Some(key.id.as_str()) == id);
        if let Some(key) = known
            && chosen.replace((label, covered, key)).is_some()
        {
            return Err(Fault::Invalid);
        }
    }
    let (label, covered, index) = chosen.ok_or(Fault::Invalid)?;
    let key = &keys[index];
    if text(covered, "alg")?.is_some_and(|algorithm| algorithm != key.key.algorithm()) {
        return Err(Fault::Invalid);
    }
    // Read even where nothing is asked of it: it is text or no signature parameter.
    text(covered, "nonce")?;
    let created = time(covered, "created")?.ok_or(Fault::Invalid)?;
    let expires = time(covered, "expires")?;
    let covers_digest = is_covered(covered, CONTENT_DIGEST.as_str());
    if !covers_enough(covered, message, requirements) {
        return Err(Fault::Invalid);
    }
    if created > now.saturating_add(MAX_AHEAD_SECONDS)
        || created.saturating_add(requirements.tolerance_seconds) < now
        || expires.is_some_and(|expires| expires <= now)
    {
        return Err(Fault::Expired);
    }
    let signatures = combined(message.headers, &SIGNATURE).ok_or(Fault::Invalid)?;
    let signatures = dictionary(&signatures).ok_or(Fault::Invalid)?;
    let Some(ListEntry::Item(Item { bare_item: BareItem::ByteSequence(signature), .. })) =
        signatures.get(label)
    else {
        return Err(Fault::Invalid);
    };
    let signed = base::of(covered, message).ok_or(Fault::Invalid)?;
    if !key.key.verifies(&signed, signature) {
        return Err(Fault::Invalid);
    }
    let mut all = Vec::with_capacity(signed.len() + key.id.len() + 1);
    all.extend_from_slice(key.id.as_bytes());
    all.push(b'\n');
    all.extend_from_slice(&signed);
    let fingerprint = keys::digest(&all);
    Ok(Some(Verified { key: index, created, covers_digest, fingerprint }))
}

/// Whether nothing of what is asked for can be changed: the method, the whole target, the body.
fn covers_enough(covered: &InnerList, message: &Message<'_>, wanted: &Requirements) -> bool {
    let has = |name: &str| is_covered(covered, name);
    let path =
        has("@request-target") || (has("@path") && (message.query.is_none() || has("@query")));
    covered.items.len() <= MAX_COMPONENTS
        && has("@method")
        && (has("@target-uri") || (has("@authority") && path))
        && (!message.has_body || has(CONTENT_DIGEST.as_str()))
        && wanted.components.iter().all(|name| has(name))
}

/// Whether a component is covered as a whole.
fn is_covered(covered: &InnerList, name: &str) -> bool {
    covered.items.iter().any(|item| {
        matches!(&item.bare_item, BareItem::String(text) if text.as_str() == name)
            && item.params.keys().all(|parameter| ["sf", "bs"].contains(&parameter.as_str()))
    })
}

/// Whether what any signature of the message would be made over says what it covers and no more: a
/// line for each component, and one that can be read again as the list that was sent.
pub(super) fn is_sound(message: &Message<'_>) -> bool {
    let Some(input) = combined(message.headers, &SIGNATURE_INPUT) else { return true };
    let Ok(input) = Parser::new(&input).parse::<Dictionary>() else { return true };
    input.values().all(|member| {
        let ListEntry::InnerList(covered) = member else { return true };
        let Some(base) = base::of(covered, message) else { return true };
        let lines: Vec<&[u8]> = base.split(|byte| *byte == b'\n').collect();
        let last = lines.last().and_then(|line| line.strip_prefix(b"\"@signature-params\": "));
        let again = last.and_then(|list| Parser::new(list).parse::<sfv::List>().ok());
        lines.len() == covered.items.len() + 1
            && again.is_some_and(|list| list == [ListEntry::InnerList(covered.clone())])
    })
}

fn text<'a>(covered: &'a InnerList, parameter: &str) -> Result<Option<&'a str>, Fault> {
    match covered.params.get(parameter) {
        None => Ok(None),
        Some(BareItem::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(Fault::Invalid),
    }
}

/// Unix seconds.
fn time(covered: &InnerList, parameter: &str) -> Result<Option<u64>, Fault> {
    match covered.params.get(parameter) {
        None => Ok(None),
        Some(BareItem::Integer(seconds)) => {
            u64::try_from(i64::from(*seconds)).map(Some).map_err(|_| Fault::Invalid)
        }
        Some(_) => Err(Fault::Invalid),
    }
}

#[cfg(test)]
mod tests;
