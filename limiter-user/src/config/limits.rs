//! `[limits.NAME]`: written -> checked.

use std::ops::Range;

use toml::Spanned;

use super::{
    document::{Text, access::LimitDocument},
    error::Report,
    values,
};
use crate::policy::{
    Rate,
    http::{Algorithm, AppliesTo, LimitKey, LimitPolicy},
};

/// Windows count no further.
const MAX_WINDOW_COUNT: u64 = 1_000_000;
/// No bucket holds more.
const MAX_BURST: i64 = 1_000_000_000;

pub(super) fn check(
    name: &Text,
    written: &Spanned<LimitDocument>,
    report: &mut Report,
) -> Option<LimitPolicy> {
    let document = written.get_ref();
    let supported = "algorithm, key, rate, burst, applies_to, mode";
    report.later(&[&document.concurrent, &document.tiers], supported);
    report.choice(document.count.as_ref(), &[("all", ())], &["failures", "successes"]);
    if let Some(cost) = document.cost.as_ref().filter(|cost| *cost.get_ref() != 1) {
        report.unsupported(cost.span(), &cost.get_ref().to_string(), "1");
    }
    if let Some(delay) = &document.max_delay
        && report.value(delay, values::duration).is_some_and(|delay| !delay.is_zero())
    {
        report.unsupported(delay.span(), &format!("{:?}", delay.get_ref()), "\"0s\"");
    }
    let algorithm = report.choice(
        document.algorithm.as_ref(),
        &[
            ("token_bucket", Algorithm::TokenBucket),
            ("sliding_window", Algorithm::SlidingWindow),
            ("fixed_window", Algorithm::FixedWindow),
        ],
        &["leaky_bucket"],
    );
    let key = key(document, report);
    let (unauthenticated, all) =
        (("unauthenticated", AppliesTo::Unauthenticated), ("all", AppliesTo::All));
    let applies_to = match key {
        LimitKey::Client => [unauthenticated, all],
        LimitKey::Principal => [all, unauthenticated],
    };
    let applies_to = report.choice(document.applies_to.as_ref(), &applies_to, &[]);
    let mode = report.mode(document.mode.as_ref());
    let name = report.value(name, values::name)?;
    let Some(rate_text) = &document.rate else {
        if document.tiers.is_none() {
            report.refuse_with(written.span(), "`rate` is missing", "e.g. rate = \"1000/15m\"");
        }
        return None;
    };
    let rate = report.value(rate_text, values::rate)?;
    let burst = burst(document, algorithm, rate, rate_text, report);
    Some(LimitPolicy { name, algorithm, key, rate, burst, applies_to, mode })
}

fn key(document: &LimitDocument, report: &mut Report) -> LimitKey {
    let Some(list) = &document.key else {
        return LimitKey::Client;
    };
    let parts: Vec<&str> = list.get_ref().iter().map(|part| part.get_ref().as_str()).collect();
    match parts.as_slice() {
        ["client"] => return LimitKey::Client,
        ["principal"] => return LimitKey::Principal,
        _ => {}
    }
    let known = |part: &&str| {
        matches!(*part, "client" | "principal" | "route") || part.starts_with("header:")
    };
    let supported = "[\"client\"], [\"principal\"]";
    if !parts.is_empty() && parts.iter().all(known) {
        report.unsupported(list.span(), &format!("{parts:?}"), supported);
    } else {
        report.refuse(list.span(), format!("{parts:?} is not one of {supported}"));
    }
    LimitKey::Client
}

fn burst(
    document: &LimitDocument,
    algorithm: Algorithm,
    rate: Rate,
    rate_text: &Text,
    report: &mut Report,
) -> u64 {
    let burst = report.number_or(document.burst.as_ref(), 1..=MAX_BURST, rate.count);
    let place = document.burst.as_ref().map_or_else(|| rate_text.span(), Spanned::span);
    if algorithm == Algorithm::TokenBucket {
        check_burst(rate, burst, place, report);
        return burst;
    }
    if rate.count > MAX_WINDOW_COUNT {
        report.refuse(
            rate_text.span(),
            format!(
                "a window counts to at most {MAX_WINDOW_COUNT}; use algorithm = \"token_bucket\""
            ),
        );
    }
    if burst != rate.count {
        report.refuse(
            place,
            format!(
                "a window admits exactly its rate's {}; only a token_bucket has a burst",
                rate.count
            ),
        );
    }
    rate.count
}

/// A bucket must be full again within 365 days, or its arithmetic overflows.
pub(super) fn check_burst(rate: Rate, burst: u64, place: Range<usize>, report: &mut Report) {
    let refill = rate.period.as_nanos() * u128::from(burst) / u128::from(rate.count.max(1));
    if refill > values::LONGEST.as_nanos() {
        report.refuse(place, "a burst must be refilled by its rate within 365 days");
    }
}
