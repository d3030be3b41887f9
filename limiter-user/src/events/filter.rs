//! Which events a sink or follower wants: label patterns and, for followers, a source.

use ipnet::IpNet;

use super::{Event, EventKind, Lifecycle};

/// What to let through.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Filter {
    /// Label patterns (`*` at the end matches any rest); empty: everything but `authenticated`.
    pub kinds: Vec<String>,
    /// Only events about addresses inside this.
    pub source: Option<IpNet>,
}

impl Filter {
    /// Whether the event passes.
    pub fn admits(&self, event: &Event) -> bool {
        self.admits_kind(event.kind) && self.admits_source(event)
    }

    fn admits_kind(&self, kind: EventKind) -> bool {
        if self.kinds.is_empty() {
            return kind != EventKind::Lifecycle(Lifecycle::Authenticated);
        }
        let label = kind.label();
        self.kinds.iter().any(|pattern| matches(pattern, label))
    }

    fn admits_source(&self, event: &Event) -> bool {
        let Some(prefix) = &self.source else {
            return true;
        };
        event.source.is_some_and(|source| source.is_inside(prefix))
            || event.client.is_some_and(|client| prefix.contains(&client.to_canonical()))
    }
}

/// Whether any label there is matches this pattern: one that matches none is a mistake.
pub fn pattern_is_known(pattern: &str) -> bool {
    labels().any(|label| matches(pattern, label))
}

/// Every label, for messages about an unknown pattern.
pub fn labels() -> impl Iterator<Item = &'static str> {
    crate::refusal::Refusal::ALL
        .iter()
        .map(|refusal| refusal.label())
        .chain([EventKind::PACKETS_DROPPED])
        .chain(Lifecycle::ALL.iter().map(|lifecycle| lifecycle.label()))
}

fn matches(pattern: &str, label: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => label.starts_with(beginning),
        None => label == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Source;

    fn event(lifecycle: Lifecycle) -> Event {
        Event::lifecycle(0, lifecycle, "")
    }

    #[test]
    fn patterns_match_labels_and_their_beginnings() {
        let filter = |kinds: &[&str]| Filter {
            kinds: kinds.iter().map(ToString::to_string).collect(),
            source: None,
        };
        assert!(filter(&["ban*"]).admits(&event(Lifecycle::Banned)));
        assert!(!filter(&["ban"]).admits(&event(Lifecycle::Banned)));
        assert!(filter(&["x", "config_*"]).admits(&event(Lifecycle::ConfigRejected)));
        assert!(filter(&[]).admits(&event(Lifecycle::Attached)));
        assert!(!filter(&[]).admits(&event(Lifecycle::Authenticated)));
        assert!(filter(&["*"]).admits(&event(Lifecycle::Authenticated)));
        assert!(pattern_is_known("packets_*") && !pattern_is_known("detected_x"));
    }

    #[test]
    fn a_source_is_the_peer_or_the_client() {
        let filter = Filter { kinds: Vec::new(), source: Some("192.0.2.0/24".parse().unwrap()) };
        let mut subject = event(Lifecycle::Banned);
        assert!(!filter.admits(&subject));
        subject.source = Some(Source::Address("::ffff:192.0.2.9".parse().unwrap()));
        assert!(filter.admits(&subject));
        subject.source = Some(Source::Prefix("192.0.0.0/16".parse().unwrap()));
        assert!(!filter.admits(&subject));
        subject.client = Some("192.0.2.1".parse().unwrap());
        assert!(filter.admits(&subject));
    }
}
