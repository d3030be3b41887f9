//! What to change in the maps, in which order, so that no packet sees half of a new policy: pure.

use super::image::KernelImage;
use crate::policy::kernel::KernelPolicy;

/// One change of the maps.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// Make the half of the lists that is not in force hold exactly the new ones.
    FillLists {
        /// The second half, else the first.
        second: bool,
    },
    /// Write the settings, services and ports that are not in force.
    WriteSettings {
        /// Which of the two.
        index: u32,
        /// Which half of the lists they name.
        lists_second: bool,
    },
    /// Put them in force: one word, seen by each packet whole or not at all.
    Activate {
        /// Which of the two.
        index: u32,
    },
}

/// Which halves of the maps are in force.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct InForce {
    /// Index of the settings.
    pub settings: u32,
    /// The second half of the lists, else the first.
    pub lists_second: bool,
}

/// How to get from one policy to another; nothing where they are the same.
pub fn plan(old: Option<&KernelImage>, new: &KernelImage, in_force: InForce) -> Vec<Step> {
    if old == Some(new) {
        return Vec::new();
    }
    let index = 1 - in_force.settings.min(1);
    let same_lists = old.is_some_and(|old| old.has_lists_of(new));
    let lists_second = if same_lists { in_force.lists_second } else { !in_force.lists_second };
    let mut steps = Vec::new();
    if !same_lists {
        steps.push(Step::FillLists { second: lists_second });
    }
    steps.push(Step::WriteSettings { index, lists_second });
    steps.push(Step::Activate { index });
    steps
}

/// What a new policy asks for that only a restart can do, a line each: sizes of maps and prefix
/// lengths are those of the tables in which the sources lie.
pub fn needs_restart(old: &KernelPolicy, new: &KernelPolicy) -> Vec<String> {
    let sizes = [
        ("max_sources", u64::from(old.max_sources), u64::from(new.max_sources)),
        ("max_bans", u64::from(old.max_bans), u64::from(new.max_bans)),
        ("max_prefix_bans", u64::from(old.max_prefix_bans), u64::from(new.max_prefix_bans)),
        ("ipv4_prefix", u64::from(old.ipv4_prefix), u64::from(new.ipv4_prefix)),
        ("ipv6_prefix", u64::from(old.ipv6_prefix), u64::from(new.ipv6_prefix)),
    ];
    sizes
        .into_iter()
        .filter(|(_, old, new)| old != new)
        .map(|(key, old, new)| format!("kernel.{key}: {old} stays until restart, then {new}"))
        .collect()
}

/// The new policy with what only a restart can change left as it was.
pub fn without_restart(old: &KernelPolicy, new: &KernelPolicy) -> KernelPolicy {
    KernelPolicy {
        max_sources: old.max_sources,
        max_bans: old.max_bans,
        max_prefix_bans: old.max_prefix_bans,
        ipv4_prefix: old.ipv4_prefix,
        ipv6_prefix: old.ipv6_prefix,
        ..new.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::image::{HostFacts, tests::policy},
        *,
    };

    #[test]
    fn what_is_in_force_is_never_written() {
        let old = KernelImage::new(&policy(), &HostFacts::default()).unwrap();
        let mut changed = policy();
        changed.deny = vec!["192.0.2.0/24".parse().unwrap()].into();
        let new = KernelImage::new(&changed, &HostFacts::default()).unwrap();
        for settings in [0, 1] {
            for lists_second in [false, true] {
                let in_force = InForce { settings, lists_second };
                let steps = plan(Some(&old), &new, in_force);
                assert!(!steps.contains(&Step::FillLists { second: lists_second }));
                let other = 1 - settings;
                assert_eq!(
                    steps,
                    [
                        Step::FillLists { second: !lists_second },
                        Step::WriteSettings { index: other, lists_second: !lists_second },
                        Step::Activate { index: other },
                    ],
                );
            }
        }
        assert_eq!(plan(Some(&old), &old, InForce::default()), []);
    }

    #[test]
    fn unchanged_lists_stay_where_they_are() {
        let old = KernelImage::new(&policy(), &HostFacts::default()).unwrap();
        let mut changed = policy();
        changed.mode = crate::policy::Mode::Monitor;
        let new = KernelImage::new(&changed, &HostFacts::default()).unwrap();
        let in_force = InForce { settings: 1, lists_second: true };
        assert_eq!(
            plan(Some(&old), &new, in_force),
            [Step::WriteSettings { index: 0, lists_second: true }, Step::Activate { index: 0 }],
        );
    }

    #[test]
    fn sizes_wait_for_a_restart_and_say_so() {
        let mut changed = policy();
        changed.max_bans = 5;
        changed.mode = crate::policy::Mode::Monitor;
        assert_eq!(
            needs_restart(&policy(), &changed),
            ["kernel.max_bans: 100 stays until restart, then 5"]
        );
        let kept = without_restart(&policy(), &changed);
        assert_eq!((kept.max_bans, kept.mode), (100, crate::policy::Mode::Monitor));
    }
}
