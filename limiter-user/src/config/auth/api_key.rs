//! `kind = "api_key"`: keys from `limiter keys`, or one shared token, digested as they are read.

use std::path::Path;

use toml::Spanned;

use super::super::{
    Scope, agent,
    document::access::AuthDocument,
    error::{Place, Report},
    reserved, secret,
};
use crate::{
    keys::{self, file::KeysFile},
    policy::{
        Mode,
        auth::{ApiKeyPolicy, AuthKind, AuthPolicy, KeyRecord},
    },
};

const DEFAULT_HEADER: &str = "x-api-key";
/// A shared token shorter than this can be guessed.
const SHORT_TOKEN: usize = 16;

pub(super) fn check(
    written: &Spanned<AuthDocument>,
    scope: &Scope<'_>,
    report: &mut Report,
) -> ApiKeyPolicy {
    let document = written.get_ref();
    let header = report.value_or(
        document.header.as_ref(),
        |text| {
            if text.eq_ignore_ascii_case("authorization") {
                return Err("`Authorization: Bearer` is read anyway".to_owned());
            }
            reserved::credential_header(text)
        },
        DEFAULT_HEADER.to_owned(),
    );
    let mut records = Vec::new();
    let path = document.keys_file.as_ref().map(|file| {
        let path = agent::path(file, scope, report);
        read_keys(&path, &Place::from(file.span()), &mut records, report);
        path
    });
    if let Some(token) = &document.token
        && let Some(text) = secret::read(token, scope, report)
    {
        push_token(&text, &Place::from(token.span()), &mut records, report);
    }
    if document.keys_file.is_none() && document.token.is_none() {
        report.refuse_with(
            written.span(),
            "no key can be valid: neither `keys_file` nor `token` is given",
            format!("keys_file = {:?}, then `limiter keys new --name NAME`", keys::DEFAULT_FILE),
        );
    }
    ApiKeyPolicy { header, keys: records, file: path }
}

/// The scheme of a preset or of `LIMITER_AUTH_TOKEN` where the file has none: the default keys
/// file and the token.
pub(in crate::config) fn default_scheme(token: Option<&str>, report: &mut Report) -> AuthPolicy {
    let mut records = Vec::new();
    if let Some(token) = token {
        push_token(token, &"LIMITER_AUTH_TOKEN".into(), &mut records, report);
    }
    let path = Path::new(keys::DEFAULT_FILE);
    if token.is_none() || path.exists() {
        read_keys(path, &keys::DEFAULT_FILE.into(), &mut records, report);
    }
    let file = Some(path.to_owned());
    let header = DEFAULT_HEADER.to_owned();
    AuthPolicy {
        name: "keys".to_owned(),
        kind: AuthKind::ApiKey(ApiKeyPolicy { header, keys: records, file }),
        hide_credentials: true,
        mode: Mode::Enforce,
    }
}

/// The scheme of a server that checks the same token itself, and so gets it.
pub(in crate::config) fn shared_token_scheme(
    variable: &str,
    token: &str,
    report: &mut Report,
) -> AuthPolicy {
    let mut keys = Vec::new();
    push_token(token, &variable.into(), &mut keys, report);
    AuthPolicy {
        name: "server-token".to_owned(),
        kind: AuthKind::ApiKey(ApiKeyPolicy {
            header: DEFAULT_HEADER.to_owned(),
            keys,
            file: None,
        }),
        hide_credentials: false,
        mode: Mode::Enforce,
    }
}

/// The same policy from its file as it is now. One that is gone changes nothing: a file system
/// that is not mounted is not to revoke all keys.
pub(crate) fn reread(policy: &ApiKeyPolicy) -> anyhow::Result<ApiKeyPolicy> {
    let Some(path) = &policy.file else { return Ok(policy.clone()) };
    let (token, known): (Vec<_>, Vec<_>) =
        policy.keys.iter().cloned().partition(|key| key.name == keys::SHARED_TOKEN);
    let file = KeysFile::read(path)?.map(|file| file.records());
    let records = match file {
        Some(records) => records,
        None if known.is_empty() => known,
        None => anyhow::bail!("there is no {} any more", path.display()),
    };
    Ok(ApiKeyPolicy { keys: records.into_iter().chain(token).collect(), ..policy.clone() })
}

fn read_keys(path: &Path, place: &Place, records: &mut Vec<KeyRecord>, report: &mut Report) {
    match KeysFile::read(path) {
        Ok(Some(file)) => {
            if file.keys.is_empty() {
                report.risk(place.clone(), "holds no key: `limiter keys new --name NAME`");
            }
            records.extend(file.records());
        }
        Ok(None) => report.risk(
            place.clone(),
            format!("there is no {} yet: `limiter keys new --name NAME` makes it", path.display()),
        ),
        Err(error) => report.refuse(place.clone(), format!("{error:#}")),
    }
}

fn push_token(text: &str, place: &Place, records: &mut Vec<KeyRecord>, report: &mut Report) {
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        report.refuse(
            place.clone(),
            "the token cannot be sent in a header: it has blanks or characters beyond ASCII",
        );
        return;
    }
    if text.len() < SHORT_TOKEN {
        report.risk(
            place.clone(),
            format!("a token of fewer than {SHORT_TOKEN} characters can be guessed"),
        );
    }
    records.push(KeyRecord {
        name: keys::SHARED_TOKEN.to_owned(),
        tier: None,
        scopes: Vec::new(),
        digest: keys::digest(text.as_bytes()),
        expires_unix_seconds: None,
    });
}
