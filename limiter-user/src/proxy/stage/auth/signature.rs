//! Signed requests: the signature over the head, then the body against its digest, then whether it
//! all comes for the first time.

use http::{Version, header::HOST};

use super::{Asked, Found, Presented, Principal, Who, fresh, work};
use crate::{
    credentials::{
        digest::BodyDigest,
        signature::{self, Fault, Message, SIGNATURE_INPUT},
    },
    proxy::{compiled_auth::Signatures, content::Content, reply::Reply},
};

/// Checks the signature of a request for each scheme of the route that knows some.
pub(super) async fn look_up(
    asked: &Asked<'_>,
    content: &mut Content,
    found: &mut Found,
) -> Result<(), Reply> {
    let has_scheme =
        asked.route.auth.iter().any(|scheme| asked.policy.auth[*scheme].signatures().is_some());
    if !has_scheme || !asked.parts.headers.contains_key(SIGNATURE_INPUT) {
        return Ok(());
    }
    // Several schemes are one list of keys: a signature by a key of one is not invalid for others.
    let mut mildest = None;
    for scheme in &asked.route.auth {
        let Some(signatures) = asked.policy.auth[*scheme].signatures() else { continue };
        match judge(asked, (*scheme, signatures), content, found).await? {
            Presented::Valid(principal) => {
                return found.add(Presented::Valid(principal), asked.policy);
            }
            Presented::Invalid => mildest = mildest.or(Some(Presented::Invalid)),
            lapsed => mildest = Some(lapsed),
        }
    }
    mildest.map_or(Ok(()), |presented| found.add(presented, asked.policy))
}

async fn judge(
    asked: &Asked<'_>,
    (scheme, signatures): (usize, &Signatures),
    content: &mut Content,
    found: &mut Found,
) -> Result<Presented, Reply> {
    work::admit(asked, scheme)?;
    let parts = asked.parts;
    let authority = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
    // HTTP/2 has no request line (RFC 9421, 2.2.5).
    let is_absolute = parts.version != Version::HTTP_2 && parts.uri.scheme().is_some();
    let absolute = is_absolute.then(|| parts.uri.to_string());
    let message = Message {
        method: parts.method.as_str(),
        scheme: asked.url_scheme,
        authority: authority.unwrap_or_default(),
        path: parts.uri.path(),
        query: parts.uri.query(),
        absolute: absolute.as_deref(),
        headers: &parts.headers,
        has_body: !content.is_empty(),
    };
    let checked =
        signature::check(&signatures.keys, &signatures.requirements, &message, asked.unix_seconds);
    let verified = match checked {
        Ok(Some(verified)) => verified,
        Ok(None) => return Ok(Presented::Invalid),
        Err(Fault::Expired) => return Ok(Presented::Lapsed),
        Err(Fault::Invalid) => {
            work::done_in_vain(asked, scheme);
            return Ok(Presented::Invalid);
        }
    };
    if verified.covers_digest {
        let digest = BodyDigest::expected(&parts.headers);
        let Some(digest) = digest else { return Ok(Presented::Invalid) };
        if !content.has_digest(asked.policy, digest).await? {
            return Ok(Presented::Invalid);
        }
    }
    let principal = Principal { scheme, who: Who::Key(verified.key) };
    fresh(asked, found, &[verified.fingerprint], verified.created, principal)
}
