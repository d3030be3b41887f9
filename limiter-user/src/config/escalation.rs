//! `[escalation]`: written -> checked.

use std::{collections::BTreeMap, time::Duration};

use super::{Scope, document::EscalationDocument, error::Report, values};
use crate::{
    policy::{BanScope, EscalationPolicy},
    refusal::{Blame, Refusal},
};

/// Points that make no difference beyond this.
const MAX_POINTS: i64 = 1_000_000;
/// Labels of evidence that only later versions find; accepted, because no points can come of them.
const LATER_LABELS: [&str; 4] = ["detected", "scanner", "forbidden_scope", "validation_failed"];
/// What scores unless the file says otherwise.
const DEFAULT_SCORES: [(Refusal, u32); 4] = [
    (Refusal::InvalidCredential, 5),
    (Refusal::MalformedRequest, 25),
    (Refusal::Replayed, 25),
    (Refusal::RateLimitedFar, 5),
];

/// The same under preset `elizaos`, whose tenth failed attempt within a quarter of an hour is the
/// last that is answered as one: only who goes on after that is banned.
const ELIZAOS_SCORES: [(Refusal, u32); 4] = [
    (Refusal::InvalidCredential, 4),
    (Refusal::Guarded, 1),
    (Refusal::MalformedRequest, 25),
    (Refusal::RateLimitedFar, 5),
];

pub(super) fn check(
    written: &EscalationDocument,
    scope: &Scope<'_>,
    report: &mut Report,
) -> EscalationPolicy {
    let ban = &written.ban;
    let minutes = |count: u64| Duration::from_mins(count);
    let first_ban = report.value_or(ban.first.as_ref(), values::positive_duration, minutes(10));
    let max_ban =
        report.value_or(ban.max.as_ref(), values::positive_duration, minutes(7 * 24 * 60));
    if first_ban > max_ban {
        let place = ban.first.as_ref().or(ban.max.as_ref());
        let place = place.map_or(0..0, toml::Spanned::span);
        report.refuse(place, "the first ban is longer than the longest (`first`, `max`)");
    }
    EscalationPolicy {
        enabled: written.enabled.as_ref().is_none_or(|flag| *flag.get_ref()),
        mode: report.mode(written.mode.as_ref()),
        scores: scores(written, scope, report),
        threshold: report.number_or(written.threshold.as_ref(), 1..=MAX_POINTS, 50),
        window: report.value_or(written.window.as_ref(), values::positive_duration, minutes(1)),
        first_ban,
        factor: report.number_or(ban.factor.as_ref(), 1..=1_000, 4),
        max_ban,
        decay: report.value_or(ban.decay.as_ref(), values::positive_duration, minutes(24 * 60)),
        shared_address_guard: report.value_or(
            written.shared_address_guard.as_ref(),
            values::duration,
            minutes(60),
        ),
        scope: report.choice(
            written.scope.as_ref(),
            &[("kernel", BanScope::Kernel), ("http", BanScope::Http)],
            &[],
        ),
    }
}

fn scores(
    written: &EscalationDocument,
    scope: &Scope<'_>,
    report: &mut Report,
) -> Vec<(Refusal, u32)> {
    let mut scores: BTreeMap<Refusal, u32> = match scope.elizaos {
        Some(_) => ELIZAOS_SCORES.into(),
        None => DEFAULT_SCORES.into(),
    };
    for (label, points) in &written.scores {
        let refusal =
            Refusal::ALL.iter().copied().find(|refusal| refusal.label() == label.get_ref());
        let points_or_zero = report.number_or(Some(points), 0..=MAX_POINTS, 0);
        match refusal {
            Some(refusal) if can_score(refusal) => {
                scores.insert(refusal, points_or_zero);
            }
            Some(Refusal::Unauthorized) => report.refuse(
                label.span(),
                "a missing credential is no evidence; `invalid_credential` is",
            ),
            Some(_) => {
                report.refuse(label.span(), "not the client's own doing, or only its consequence");
            }
            None if LATER_LABELS.contains(&label.get_ref().as_str()) => {}
            None => report.refuse_with(
                label.span(),
                format!("{:?} is no evidence that this version knows", label.get_ref()),
                format!("allowed here: {}", scoring_labels().join(", ")),
            ),
        }
    }
    scores.into_iter().filter(|(_, points)| *points > 0).collect()
}

/// Evidence must be the client's own doing, and not what a ban or the guard answered.
fn can_score(refusal: Refusal) -> bool {
    let consequence = matches!(refusal, Refusal::Banned | Refusal::Guarded | Refusal::Unauthorized);
    refusal.blame() == Blame::Client && !consequence
}

fn scoring_labels() -> Vec<&'static str> {
    Refusal::ALL
        .iter()
        .filter(|refusal| can_score(**refusal))
        .map(|refusal| refusal.label())
        .chain(LATER_LABELS)
        .collect()
}
