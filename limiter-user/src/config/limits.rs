//! `[limits.NAME]`: written -> checked.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use toml::Spanned;

use super::{
    document::{Text, access::LimitDocument},
    error::Report,
    values,
};
use crate::policy::{
    Rate, RateLimit,
    limits::{Algorithm, Amounts, AppliesTo, Counting, KeyPart, LimitPolicy, QuotaPolicy, TIERS},
};

/// Windows count no further.
const MAX_WINDOW_COUNT: u64 = 1_000_000;
/// No bucket holds more.
const MAX_BURST: i64 = 1_000_000_000;
/// No request weighs more.
pub(super) const MAX_COST: i64 = 1_000_000;
/// A request waits no longer for its turn.
const LONGEST_DELAY: Duration = Duration::from_mins(1);
/// No more parts of a key.
const MAX_PARTS: usize = 4;
/// No more limits and tiers in all.
const MAX_BUDGETS: usize = 1_000;
/// No more tiers of a limit.
const MAX_TIERS: usize = 16;

pub(super) fn check(
    name: &Text,
    written: &Spanned<LimitDocument>,
    report: &mut Report,
) -> Option<LimitPolicy> {
    let document = written.get_ref();
    let algorithm = report.choice(
        document.algorithm.as_ref(),
        &[
            ("token_bucket", Algorithm::TokenBucket),
            ("sliding_window", Algorithm::SlidingWindow),
            ("fixed_window", Algorithm::FixedWindow),
            ("leaky_bucket", Algorithm::LeakyBucket),
        ],
        &[],
    );
    let key = key(document, report);
    let counting = [
        ("all", Counting::All),
        ("failures", Counting::Failures),
        ("successes", Counting::Successes),
    ];
    let count = report.choice(document.count.as_ref(), &counting, &[]);
    let (unauthenticated, all) =
        (("unauthenticated", AppliesTo::Unauthenticated), ("all", AppliesTo::All));
    let applies_to = if key == [KeyPart::Client] && document.tiers.is_none() {
        [unauthenticated, all]
    } else {
        [all, unauthenticated]
    };
    let applies_to = report.choice(document.applies_to.as_ref(), &applies_to, &[]);
    let mode = report.mode(document.mode.as_ref());
    let cost = report.number_or(document.cost.as_ref(), 1..=MAX_COST, 1_u64);
    let concurrent =
        document.concurrent.as_ref().map(|most| report.number_or(Some(most), 1..=1_000_000, 1_u64));
    let max_delay = max_delay(document, algorithm, count, report);
    let amounts = amounts(written, algorithm, report);
    let name = report.value(name, values::name)?;
    let quota = amounts.map(|amounts| QuotaPolicy { algorithm, amounts, max_delay });
    if let (Some(quota), Some(place)) = (&quota, &document.cost) {
        fits(quota, cost, place.span(), report);
    }
    if quota.is_none() && concurrent.is_none() {
        return None;
    }
    Some(LimitPolicy { name, key, quota, concurrent, applies_to, count, cost, mode })
}

/// All of them must have a place in the memory they are counted in.
pub(super) fn bounded(limits: &[LimitPolicy], report: &mut Report) {
    let quotas = limits.iter().filter_map(|limit| limit.quota.as_ref());
    let budgets: usize = quotas.map(|quota| quota.amounts.each().len()).sum();
    if budgets > MAX_BUDGETS {
        report.refuse("limits", format!("{budgets} limits and tiers; at most {MAX_BUDGETS}"));
    }
}

/// A request must be able to pass a limit.
pub(super) fn fits(quota: &QuotaPolicy, cost: u64, place: Range<usize>, report: &mut Report) {
    let amounts = quota.amounts.each();
    let least = amounts.iter().map(|(_, amount)| amount.burst).min();
    if let Some(least) = least.filter(|least| cost > *least) {
        report.refuse(place, format!("a cost of {cost} never passes a limit of {least}"));
        return;
    }
    // It waits for all units that it takes but one, each rounded up to a quarter of a ns.
    let waits_too_long = |(_, RateLimit { rate, .. }): &(Option<&str>, RateLimit)| {
        let unit = (4 * rate.period.as_nanos()).div_ceil(u128::from(rate.count));
        u128::from(cost - 1) * unit > 4 * quota.max_delay.as_nanos()
    };
    if !quota.max_delay.is_zero() && amounts.iter().any(waits_too_long) {
        report.refuse(place, format!("a cost of {cost} never passes: `max_delay` is too short"));
    }
}

fn key(document: &LimitDocument, report: &mut Report) -> Vec<KeyPart> {
    let Some(list) = &document.key else {
        return vec![KeyPart::Client];
    };
    let mut key: Vec<KeyPart> = Vec::new();
    for text in list.get_ref() {
        let Some(part) = report.value(text, part) else { continue };
        if key.contains(&part) {
            report.refuse(text.span(), "is there twice");
        }
        key.push(part);
    }
    if list.get_ref().is_empty() {
        report.refuse(list.span(), "counts by nothing; [\"route\"] counts all requests together");
    }
    if key.len() > MAX_PARTS {
        report.refuse(list.span(), format!("at most {MAX_PARTS} parts"));
    }
    if key.iter().any(|part| matches!(part, KeyPart::Header(_))) {
        report.risk(
            list.span(),
            "a client chooses what it sends in a header: whoever sends another value each time is \
             not limited by this limit",
        );
    }
    key
}

fn part(text: &str) -> Result<KeyPart, String> {
    match text.split_once(':') {
        None if text == "client" => Ok(KeyPart::Client),
        None if text == "principal" => Ok(KeyPart::Principal),
        None if text == "route" => Ok(KeyPart::Route),
        Some(("header", name)) => values::header_name(name).map(KeyPart::Header),
        _ => Err("expected \"client\", \"principal\", \"route\" or \"header:NAME\"".to_owned()),
    }
}

fn max_delay(
    document: &LimitDocument,
    algorithm: Algorithm,
    count: Counting,
    report: &mut Report,
) -> Duration {
    let delay = report.value_or(document.max_delay.as_ref(), values::duration, Duration::ZERO);
    let Some(place) = document.max_delay.as_ref().filter(|_| !delay.is_zero()) else {
        return delay;
    };
    if algorithm != Algorithm::LeakyBucket {
        report.refuse(place.span(), "only in a leaky_bucket does a request wait for its turn");
    }
    if delay > LONGEST_DELAY {
        report.refuse(place.span(), "a request waits at most 60s");
    }
    if count != Counting::All {
        report.refuse(place.span(), "a request that waits for its turn counts: count = \"all\"");
    }
    delay
}

fn amounts(
    written: &Spanned<LimitDocument>,
    algorithm: Algorithm,
    report: &mut Report,
) -> Option<Amounts> {
    let document = written.get_ref();
    if let Some(tiers) = &document.tiers {
        for (place, key) in [
            (document.rate.as_ref().map(Spanned::span), "rate"),
            (document.burst.as_ref().map(Spanned::span), "burst"),
        ] {
            if let Some(place) = place {
                report.refuse(place, format!("each tier has its own: either `{key}` or `tiers`"));
            }
        }
        return Some(self::tiers(tiers, algorithm, report));
    }
    let Some(rate_text) = &document.rate else {
        if document.concurrent.is_none() {
            let help = "e.g. rate = \"1000/15m\", tiers = {} or concurrent = 50";
            report.refuse_with(written.span(), "`rate` is missing", help);
        }
        let unused = [
            document.burst.as_ref().map(Spanned::span),
            document.cost.as_ref().map(Spanned::span),
            document.count.as_ref().filter(|count| count.get_ref() != "all").map(Spanned::span),
        ];
        for place in unused.into_iter().flatten() {
            report.refuse(place, "there is no `rate`");
        }
        return None;
    };
    let rate = report.value(rate_text, values::rate)?;
    let burst = burst(document, algorithm, rate, rate_text, report);
    Some(Amounts::Same(RateLimit { rate, burst }))
}

fn tiers(
    written: &Spanned<BTreeMap<Text, Text>>,
    algorithm: Algorithm,
    report: &mut Report,
) -> Amounts {
    let hour = Duration::from_hours(1);
    let mut tiers: Vec<(String, RateLimit)> = TIERS
        .iter()
        .map(|(name, count)| {
            let rate = Rate { count: *count, period: hour };
            ((*name).to_owned(), RateLimit { rate, burst: *count })
        })
        .collect();
    for (name, rate_text) in written.get_ref() {
        let name = report.value(name, values::name);
        let rate = report.value(rate_text, values::rate);
        let (Some(name), Some(rate)) = (name, rate) else { continue };
        check_amount(algorithm, rate, rate.count, rate_text, report);
        let amount = RateLimit { rate, burst: rate.count };
        match tiers.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = amount,
            None => tiers.push((name, amount)),
        }
    }
    if tiers.len() > MAX_TIERS {
        report.refuse(written.span(), format!("at most {MAX_TIERS} tiers"));
    }
    Amounts::ByTier(tiers)
}

fn burst(
    document: &LimitDocument,
    algorithm: Algorithm,
    rate: Rate,
    rate_text: &Text,
    report: &mut Report,
) -> u64 {
    let burst = report.number_or(document.burst.as_ref(), 1..=MAX_BURST, rate.count);
    if !algorithm.is_bucket()
        && burst != rate.count
        && let Some(place) = &document.burst
    {
        report.refuse(
            place.span(),
            format!("a window admits exactly its rate's {}; only a bucket has a burst", rate.count),
        );
    }
    let place = document.burst.as_ref().filter(|_| algorithm.is_bucket());
    match place {
        Some(place) => check_burst(rate, burst, place.span(), report),
        None => check_amount(algorithm, rate, rate.count, rate_text, report),
    }
    burst
}

fn check_amount(algorithm: Algorithm, rate: Rate, burst: u64, place: &Text, report: &mut Report) {
    if algorithm.is_bucket() {
        check_burst(rate, burst, place.span(), report);
    } else if rate.count > MAX_WINDOW_COUNT {
        report.refuse(
            place.span(),
            format!(
                "a window counts to at most {MAX_WINDOW_COUNT}; use algorithm = \"token_bucket\""
            ),
        );
    }
}

/// A bucket must be full again within 365 days, or its arithmetic overflows.
pub(super) fn check_burst(rate: Rate, burst: u64, place: Range<usize>, report: &mut Report) {
    let refill = rate.period.as_nanos() * u128::from(burst) / u128::from(rate.count.max(1));
    if refill > values::LONGEST.as_nanos() {
        report.refuse(place, "a burst must be refilled by its rate within 365 days");
    }
}
