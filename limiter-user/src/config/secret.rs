//! Where secrets come from: the environment or a private file, never the configuration itself.
//!
//! What is read is digested at once by the caller and never put into a message.

use std::{ops::Range, path::Path};

use super::{
    Scope,
    document::shapes::{SecretDocument, SecretReference},
    error::Report,
};
use crate::keys::file::read_private;

/// No secret is longer.
const MAX_BYTES: u64 = 4096;

const ADVICE: &str = "write { env = \"NAME\" } or { file = \"PATH\" }";

/// The file of a secret that is in one.
pub(super) fn file(
    written: &toml::Spanned<SecretDocument>,
    scope: &Scope<'_>,
) -> Option<std::path::PathBuf> {
    match written.get_ref() {
        SecretDocument::Reference(SecretReference { file: Some(path), .. }) => {
            Some(scope.base.join(Path::new(path.get_ref())))
        }
        _ => None,
    }
}

/// Where the secret is found, unless it stands in the configuration itself.
pub(super) fn refuse_inline<'a>(
    place: Range<usize>,
    written: &'a SecretDocument,
    report: &mut Report,
) -> Option<&'a SecretReference> {
    match written {
        SecretDocument::Inline => {
            report.refuse_with(place, "a secret is never written here", ADVICE);
            None
        }
        SecretDocument::Reference(reference) => Some(reference),
    }
}

/// The secret's bytes, without the newline that editors put at a file's end.
pub(super) fn read(
    written: &toml::Spanned<SecretDocument>,
    scope: &Scope<'_>,
    report: &mut Report,
) -> Option<String> {
    read_at(written.span(), written.get_ref(), scope, report)
}

/// As [`read`], of a reference inside the value at `place`.
pub(super) fn read_at(
    place: Range<usize>,
    written: &SecretDocument,
    scope: &Scope<'_>,
    report: &mut Report,
) -> Option<String> {
    match refuse_inline(place.clone(), written, report)? {
        SecretReference { env: Some(name), file: None } => {
            let found = (scope.environment)(name.get_ref());
            if found.as_deref().is_none_or(str::is_empty) {
                report.refuse(
                    name.span(),
                    format!("the environment variable {:?} is not set", name.get_ref()),
                );
                return None;
            }
            found
        }
        SecretReference { env: None, file: Some(path) } => {
            let text = read_private(&scope.base.join(Path::new(path.get_ref())), MAX_BYTES);
            let secret = text.map(|text| text.trim_end_matches(['\r', '\n']).to_owned());
            match secret {
                Ok(secret) if !secret.is_empty() => Some(secret),
                Ok(_) => {
                    report.refuse(path.span(), "the file is empty");
                    None
                }
                Err(error) => {
                    report.refuse(path.span(), format!("{error:#}"));
                    None
                }
            }
        }
        _ => {
            report.refuse_with(place, "exactly one source of the secret is needed", ADVICE);
            None
        }
    }
}
