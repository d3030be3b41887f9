//! Webhooks: bodies signed with a shared secret. The body is read as a whole before anything goes
//! upstream, and only once the signature can be one.

use super::{Asked, Found, Presented, Principal, Who, fresh, work};
use crate::{
    credentials::{replay::Fingerprint, signature::MAX_AHEAD_SECONDS, webhook::Signed},
    keys,
    proxy::{compiled_auth::Webhooks, content::Content, reply::Reply},
};

/// Checks the signature for each scheme of the route that knows some in its header.
pub(super) async fn look_up(
    asked: &Asked<'_>,
    content: &mut Content,
    found: &mut Found,
) -> Result<(), Reply> {
    for scheme in &asked.route.auth {
        let Some(webhooks) = asked.policy.auth[*scheme].webhooks() else { continue };
        let mut values = asked.parts.headers.get_all(&webhooks.header).iter();
        let Some(value) = values.next() else { continue };
        if values.next().is_some() {
            return Err(super::invalid_request());
        }
        let value = value.as_bytes();
        let presented = judge(asked, (*scheme, webhooks), value, content, found).await?;
        found.add(presented, asked.policy)?;
    }
    Ok(())
}

async fn judge(
    asked: &Asked<'_>,
    (scheme, webhooks): (usize, &Webhooks),
    value: &[u8],
    content: &mut Content,
    found: &mut Found,
) -> Result<Presented, Reply> {
    let now = asked.unix_seconds;
    let signed = match webhooks.tolerance_seconds {
        Some(_) => Signed::with_time(value),
        None => Signed::without_time(value),
    };
    let Some(signed) = signed else { return Ok(Presented::Invalid) };
    if let (Some(made), Some(tolerance)) = (signed.unix_seconds(), webhooks.tolerance_seconds)
        && (made.saturating_add(tolerance) < now || made > now.saturating_add(MAX_AHEAD_SECONDS))
    {
        return Ok(Presented::Lapsed);
    }
    work::admit(asked, scheme)?;
    let body = content.whole(asked.policy).await?;
    let Some((key, tags)) = signed.signer(&webhooks.keys, body) else {
        work::done_in_vain(asked, scheme);
        return Ok(Presented::Invalid);
    };
    let principal = Principal { scheme, who: Who::Key(key) };
    let Some(made) = signed.unix_seconds() else { return Ok(Presented::Valid(principal)) };
    let label = asked.policy.auth[scheme].label.as_bytes();
    // While secrets change there is a tag by each: neither is good for another time.
    let message: Vec<Fingerprint> =
        tags.iter().map(|tag| keys::digest(&[label, b"\n", tag].concat())).collect();
    fresh(asked, found, &message, made, principal)
}
