//! What works in `[kernel]` and may not be meant.

use super::super::{document::kernel::KernelDocument, error::Report, values};
use crate::policy::{
    KernelPolicy,
    kernel::{DefaultVerdict, Fragments, PassOrDrop, SynCookies},
};

pub(super) fn warn(written: &KernelDocument, policy: &KernelPolicy, report: &mut Report) {
    if policy.default == DefaultVerdict::Deny
        && policy.allow.is_empty()
        && policy.trusted.is_empty()
        && let Some(place) = &written.default
    {
        report.risk(place.span(), "no network is allowed or trusted: only failsafe ports answer");
    }
    if policy.default == DefaultVerdict::Allow
        && let Some(list) = written.allow.as_ref().filter(|list| !list.get_ref().is_empty())
    {
        report.risk(list.span(), "has no effect while `default` is \"allow\"");
    }
    let loopback = ["127.0.0.1", "::1"].map(values::network);
    for text in &written.deny {
        let Ok(network) = values::network(text.get_ref()) else {
            continue;
        };
        if network.prefix_len() == 0 {
            report.risk(text.span(), format!("{network} is every address of its family"));
        } else if loopback.iter().flatten().any(|own| network.contains(own)) {
            report.risk(text.span(), format!("{network} covers this host's loopback addresses"));
        }
    }
    if !policy.required
        && let Some(flag) = &written.required
    {
        report.risk(flag.span(), "where XDP cannot attach, packets go unfiltered");
    }
    if policy.syn_cookies == SynCookies::Always
        && let Some(key) = &written.syn_cookies
    {
        report.risk(
            key.span(),
            "every client loses TCP options that do not fit a cookie, in peace too; \"auto\" \
             answers with cookies only while a listener is flooded",
        );
    }
    let passes = [
        (
            written.malformed.as_ref(),
            policy.malformed == PassOrDrop::Pass,
            "malformed packets are exempt from bans, lists and limits",
        ),
        (
            written.fragments.as_ref(),
            policy.fragments == Fragments::Pass,
            "fragments are exempt from every limit, first ones that open connections too",
        ),
        (
            written.table_full.as_ref(),
            policy.table_full == PassOrDrop::Drop,
            "a flood of forged sources can fill the table, and new sources are shut out then",
        ),
    ];
    for (key, holds, sentence) in passes {
        if let Some(key) = key.filter(|_| holds) {
            report.risk(key.span(), sentence);
        }
    }
}
