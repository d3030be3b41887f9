//! `kind = "hmac"`: senders of webhooks and their secrets, which the proxy needs as they are.

use std::collections::BTreeMap;

use toml::Spanned;

use super::{
    super::{Scope, document::access::AuthDocument, error::Report, reserved, secret},
    grants, principal, tolerance,
};
use crate::policy::{
    auth::{HmacPolicy, HmacSecret},
    listener::SecretBytes,
};

/// Where the signature is if nothing is said.
const DEFAULT_HEADER: &str = "x-signature";
/// Its signatures have no timestamp.
const HUB_HEADER: &str = "x-hub-signature-256";
/// A shorter secret can be guessed from one message.
const MIN_SECRET_BYTES: usize = 16;
/// Every message is read once for each of them.
const MAX_SECRETS: usize = 16;

pub(super) fn check(
    written: &Spanned<AuthDocument>,
    scope: &Scope<'_>,
    report: &mut Report,
) -> Option<HmacPolicy> {
    let document = written.get_ref();
    let header = report.value_or(
        document.header.as_ref(),
        reserved::credential_header,
        DEFAULT_HEADER.to_owned(),
    );
    let has_time = header != HUB_HEADER;
    match &document.tolerance {
        Some(place) if !has_time => report.refuse(
            place.span(),
            format!("a signature in `{HUB_HEADER}` does not say when it was made"),
        ),
        None if !has_time => report.risk(
            document.header.as_ref().unwrap_or(document.kind.as_ref()?).span(),
            "whoever has seen a message can send it again: its signature has no timestamp",
        ),
        _ => {}
    }
    let secrets = document.secrets.iter().flatten();
    let mut checked = Vec::new();
    for (name, reference) in secrets {
        let name_checked = report.value(name, principal);
        let Some(text) = secret::read(reference, scope, report) else { continue };
        if text.len() < MIN_SECRET_BYTES {
            report.refuse(
                name.span(),
                format!("a secret of fewer than {MIN_SECRET_BYTES} bytes can be guessed"),
            );
        }
        let secret = SecretBytes::new(text.into_bytes());
        if let Some(HmacSecret { name: other, .. }) =
            checked.iter().find(|one: &&HmacSecret| one.secret == secret)
        {
            let message =
                format!("the same secret as that of {other:?}: nobody could tell them apart");
            report.refuse(name.span(), message);
        }
        checked.extend(name_checked.map(|name| HmacSecret { name, secret }));
    }
    let written_secrets = document.secrets.as_ref().map_or(0, BTreeMap::len);
    if !(1..=MAX_SECRETS).contains(&written_secrets) {
        report.refuse_with(
            written.span(),
            format!("`secrets` names 1 to {MAX_SECRETS} senders"),
            "secrets = { partner = { env = \"PARTNER_SECRET\" } }",
        );
        return None;
    }
    let seconds = tolerance(document, report);
    Some(HmacPolicy {
        header,
        tolerance_seconds: has_time.then_some(seconds),
        secrets: checked,
        grants: grants(document.tier.as_ref(), document.scopes.as_ref(), report),
    })
}
