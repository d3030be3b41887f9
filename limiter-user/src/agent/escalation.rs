//! Evidence to bans: pure, with `now` as an argument.
//!
//! Points gather per client (IPv6 by /64) within a window; enough of them make a ban, each longer
//! than the last. A client that authenticated lately is throttled by the proxy, never banned:
//! offices and carriers share addresses. Memory is bounded; whoever finds no room is counted.

use std::{collections::HashMap, time::Duration};

use ipnet::IpNet;

use crate::{
    events::{Evidence, text},
    policy::EscalationPolicy,
    refusal::Refusal,
};

/// Clients whose points are remembered.
pub(super) const MAX_CLIENTS: usize = 65_536;

/// Findings of one client that are remembered one by one; older ones are summed into the oldest.
const MAX_FINDINGS: usize = 64;

/// A ban that the evidence asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Verdict {
    /// How long.
    pub(super) length: Duration,
    /// `score 60 of 50 in 60s (invalid_credential 12)`.
    pub(super) reason: String,
    /// The same for machines.
    pub(super) evidence: Evidence,
}

/// Points of all clients.
#[derive(Debug, Default)]
pub(super) struct Escalation {
    clients: HashMap<IpNet, Client>,
    /// Evidence that found no room.
    pub(super) overflowed: u64,
}

#[derive(Debug, Default)]
struct Client {
    findings: Vec<Finding>,
    /// When the client last authenticated, `CLOCK_MONOTONIC` ns.
    authenticated_ns: Option<u64>,
    bans: u32,
    last_ban_ns: u64,
}

#[derive(Clone, Copy, Debug)]
struct Finding {
    at_ns: u64,
    refusal: Refusal,
    count: u32,
    points: u32,
}

impl Escalation {
    /// The client presented a valid credential.
    pub(super) fn authenticated(&mut self, client: IpNet, now_ns: u64) {
        if let Some(client) = self.client(client) {
            client.authenticated_ns = Some(now_ns);
        }
    }

    /// Adds evidence; the ban that it asks for, if any.
    pub(super) fn observe(
        &mut self,
        client: IpNet,
        refusal: Refusal,
        count: u32,
        policy: &EscalationPolicy,
        now_ns: u64,
    ) -> Option<Verdict> {
        let each = policy.scores.iter().find(|(scored, _)| *scored == refusal)?.1;
        let points = each.saturating_mul(count);
        if !policy.enabled || points == 0 {
            return None;
        }
        let client = self.client(client)?;
        client.forget_before(now_ns.saturating_sub(nanoseconds(policy.window)));
        client.add(Finding { at_ns: now_ns, refusal, count, points });
        let score = client.score();
        if score < policy.threshold || client.is_shared(policy, now_ns) {
            return None;
        }
        let reason = client.explain(score, policy);
        let findings = tally(&client.findings);
        let findings = findings.into_iter().map(|(it, count)| (it.label(), count)).collect();
        let evidence = Evidence { score, findings };
        if now_ns.saturating_sub(client.last_ban_ns) > nanoseconds(policy.decay) {
            client.bans = 0;
        }
        let growth = policy.factor.max(1).saturating_pow(client.bans);
        let length = policy.first_ban.saturating_mul(growth).min(policy.max_ban);
        Some(Verdict { length, reason, evidence })
    }

    /// The ban that the evidence asked for is in force: the evidence is used up, and the next ban
    /// will be longer. Without this the verdict stands at each further finding.
    pub(super) fn banned(&mut self, client: IpNet, now_ns: u64) {
        if let Some(client) = self.clients.get_mut(&client) {
            client.bans = client.bans.saturating_add(1);
            client.last_ban_ns = now_ns;
            client.findings.clear();
        }
    }

    /// A ban in monitor mode was told: it is told again only for new evidence.
    pub(super) fn told(&mut self, client: IpNet) {
        if let Some(client) = self.clients.get_mut(&client) {
            client.findings.clear();
        }
    }

    /// Points and findings of a client within the window.
    pub(super) fn standing(
        &self,
        client: IpNet,
        policy: &EscalationPolicy,
        now_ns: u64,
    ) -> (u32, Vec<(Refusal, u64)>, bool) {
        let Some(client) = self.clients.get(&client) else { return (0, Vec::new(), false) };
        let since = now_ns.saturating_sub(nanoseconds(policy.window));
        let recent: Vec<Finding> =
            client.findings.iter().filter(|finding| finding.at_ns >= since).copied().collect();
        let score = recent.iter().fold(0_u32, |sum, finding| sum.saturating_add(finding.points));
        (score, tally(&recent), client.is_shared(policy, now_ns))
    }

    /// Forgets clients that nothing is known of any more. Once a second or so.
    pub(super) fn sweep(&mut self, policy: &EscalationPolicy, now_ns: u64) {
        let since = now_ns.saturating_sub(nanoseconds(policy.window));
        let banned_since = now_ns.saturating_sub(nanoseconds(policy.decay));
        self.clients.retain(|_, client| {
            client.forget_before(since);
            !client.findings.is_empty()
                || client.is_shared(policy, now_ns)
                || (client.bans > 0 && client.last_ban_ns >= banned_since)
        });
    }

    fn client(&mut self, client: IpNet) -> Option<&mut Client> {
        if self.clients.len() >= MAX_CLIENTS && !self.clients.contains_key(&client) {
            self.overflowed += 1;
            return None;
        }
        Some(self.clients.entry(client).or_default())
    }
}

impl Client {
    fn forget_before(&mut self, since_ns: u64) {
        self.findings.retain(|finding| finding.at_ns >= since_ns);
    }

    fn add(&mut self, finding: Finding) {
        if self.findings.len() == MAX_FINDINGS {
            // The sum stays right; what is summed only leaves the window a little later.
            let oldest = self.findings.remove(0);
            if let Some(next) = self.findings.first_mut() {
                next.points = next.points.saturating_add(oldest.points);
                next.count = next.count.saturating_add(oldest.count);
            }
        }
        self.findings.push(finding);
    }

    fn score(&self) -> u32 {
        self.findings.iter().fold(0, |sum, finding| sum.saturating_add(finding.points))
    }

    fn is_shared(&self, policy: &EscalationPolicy, now_ns: u64) -> bool {
        self.authenticated_ns.is_some_and(|at_ns| {
            now_ns.saturating_sub(at_ns) < nanoseconds(policy.shared_address_guard)
        })
    }

    fn explain(&self, score: u32, policy: &EscalationPolicy) -> String {
        let findings: Vec<String> = tally(&self.findings)
            .into_iter()
            .map(|(refusal, count)| format!("{} {count}", refusal.label()))
            .collect();
        format!(
            "score {score} of {} in {} ({})",
            policy.threshold,
            window(policy.window),
            findings.join(", "),
        )
    }
}

/// `60s` rather than `1m`: windows are told in the unit that scores are read in.
fn window(window: Duration) -> String {
    match window.as_secs() {
        seconds @ 0..=120 => format!("{seconds}s"),
        _ => text::duration(window).to_string(),
    }
}

fn tally(findings: &[Finding]) -> Vec<(Refusal, u64)> {
    let mut counts: Vec<(Refusal, u64)> = Vec::new();
    for finding in findings {
        match counts.iter_mut().find(|(refusal, _)| *refusal == finding.refusal) {
            Some((_, count)) => *count += u64::from(finding.count),
            None => counts.push((finding.refusal, u64::from(finding.count))),
        }
    }
    counts
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{BanScope, Mode};

    const SECOND: u64 = 1_000_000_000;

    fn policy() -> EscalationPolicy {
        EscalationPolicy {
            enabled: true,
            mode: Mode::Enforce,
            scores: vec![(Refusal::InvalidCredential, 5), (Refusal::MalformedRequest, 25)],
            threshold: 50,
            window: Duration::from_mins(1),
            first_ban: Duration::from_mins(10),
            factor: 4,
            max_ban: Duration::from_hours(1),
            decay: Duration::from_hours(24),
            shared_address_guard: Duration::from_hours(1),
            scope: BanScope::Kernel,
        }
    }

    fn client() -> IpNet {
        "203.0.113.9/32".parse().unwrap()
    }

    #[test]
    fn enough_points_within_the_window_make_a_ban() {
        let mut escalation = Escalation::default();
        let mut observe =
            |at| escalation.observe(client(), Refusal::InvalidCredential, 1, &policy(), at);
        for attempt in 0..9 {
            assert_eq!(observe((100 + attempt) * SECOND), None);
        }
        let verdict = observe(110 * SECOND).unwrap();
        assert_eq!(verdict.length, Duration::from_mins(10));
        assert_eq!(verdict.reason, "score 50 of 50 in 60s (invalid_credential 10)");
    }

    #[test]
    fn points_leave_the_window() {
        let mut escalation = Escalation::default();
        for attempt in 0..100 {
            let at = (100 + attempt * 7) * SECOND;
            let verdict =
                escalation.observe(client(), Refusal::InvalidCredential, 1, &policy(), at);
            assert_eq!(verdict, None, "9 in any minute");
        }
        let later = 10_000 * SECOND;
        assert_eq!(escalation.standing(client(), &policy(), later).0, 0);
        escalation.sweep(&policy(), later);
        assert!(escalation.clients.is_empty());
    }

    #[test]
    fn each_ban_is_longer_up_to_the_longest_until_it_decays() {
        let mut escalation = Escalation::default();
        let mut ban = |at| {
            let verdict = escalation.observe(client(), Refusal::MalformedRequest, 2, &policy(), at);
            escalation.banned(client(), at);
            verdict.unwrap().length
        };
        let lengths: Vec<u64> = (0..4).map(|n| ban((1 + n) * 1_000 * SECOND).as_secs()).collect();
        assert_eq!(lengths, [600, 2_400, 3_600, 3_600]);
        assert_eq!(ban(200_000 * SECOND).as_secs(), 600);
    }

    #[test]
    fn evidence_stays_until_the_ban_is_made() {
        let mut escalation = Escalation::default();
        let mut observe =
            |at| escalation.observe(client(), Refusal::MalformedRequest, 2, &policy(), at);
        assert_eq!(observe(SECOND).unwrap().length, Duration::from_mins(10));
        assert_eq!(observe(2 * SECOND).unwrap().length, Duration::from_mins(10), "none was made");
        escalation.told(client());
        assert_eq!(escalation.standing(client(), &policy(), 2 * SECOND).0, 0);
    }

    #[test]
    fn requests_without_a_key_score_nothing() {
        let mut escalation = Escalation::default();
        let verdict = escalation.observe(client(), Refusal::Unauthorized, 1_000, &policy(), SECOND);
        assert_eq!(verdict, None);
        assert!(escalation.clients.is_empty());
    }

    #[test]
    fn an_address_that_just_authenticated_is_not_banned() {
        let mut escalation = Escalation::default();
        escalation.authenticated(client(), SECOND);
        let mut observe =
            |at| escalation.observe(client(), Refusal::InvalidCredential, 100, &policy(), at);
        assert_eq!(observe(2 * SECOND), None);
        assert!(observe(4_000 * SECOND).is_some(), "an hour later it is like any other");
    }

    #[test]
    fn memory_is_bounded_and_overflow_counted() {
        let mut escalation = Escalation::default();
        for number in 0..u32::try_from(MAX_CLIENTS + 10).unwrap() {
            let client = IpNet::from(std::net::IpAddr::from(number.to_be_bytes()));
            escalation.observe(client, Refusal::InvalidCredential, 1, &policy(), SECOND);
        }
        assert_eq!((escalation.clients.len(), escalation.overflowed), (MAX_CLIENTS, 10));
        let mut one = Escalation::default();
        for at in 0..1_000 {
            one.authenticated(client(), SECOND);
            one.observe(client(), Refusal::InvalidCredential, 1, &policy(), SECOND + at);
        }
        let (score, findings, shared) = one.standing(client(), &policy(), SECOND + 1_000);
        assert_eq!(
            (score, findings, shared),
            (5_000, vec![(Refusal::InvalidCredential, 1_000)], true)
        );
    }
}
