//! `kind = "mtls"`: which certificates are whose. That they are good is a listener's to check.

use toml::Spanned;

use super::{
    super::{
        document::{
            Text,
            access::{AuthDocument, PrincipalDocument},
        },
        error::Report,
    },
    grants, principal,
};
use crate::{
    credentials::certificate::Pattern,
    policy::auth::{CertificatePattern, CertificatePrincipal, MtlsPolicy},
};

pub(super) fn check(written: &Spanned<AuthDocument>, report: &mut Report) -> Option<MtlsPolicy> {
    let document = written.get_ref();
    let list = document.principals.as_ref().map(Spanned::get_ref);
    let Some(list) = list.filter(|list| !list.is_empty()) else {
        report.refuse_with(
            written.span(),
            "`principals` is missing: whose the certificates are",
            "principals = [{ san = \"*.svc.example.com\" }]",
        );
        return None;
    };
    let principals = list.iter().filter_map(|one| principal_of(one, report)).collect();
    Some(MtlsPolicy { principals })
}

fn principal_of(
    written: &Spanned<PrincipalDocument>,
    report: &mut Report,
) -> Option<CertificatePrincipal> {
    let document = written.get_ref();
    let named = |text: &Text, report: &mut Report, read: fn(&str) -> Result<Pattern, String>| {
        report.value(text, |text| read(text).map(|_| text.to_owned()))
    };
    let pattern = match (&document.san, &document.subject) {
        (Some(text), None) => {
            CertificatePattern::Alternative(named(text, report, Pattern::alternative)?)
        }
        (None, Some(text)) => CertificatePattern::Subject(named(text, report, Pattern::subject)?),
        _ => {
            report.refuse_with(
                written.span(),
                "exactly one of `san` and `subject` says which certificates",
                "{ san = \"*.svc.example.com\", tier = \"internal\" }",
            );
            return None;
        }
    };
    let name = document.name.as_ref().and_then(|name| report.value(name, principal));
    let grants = grants(document.tier.as_ref(), document.scopes.as_ref(), report);
    Some(CertificatePrincipal { pattern, name, grants })
}
