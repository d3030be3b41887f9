//! Which counters are whose: pure.

use limiter_common::maps;

/// A slot for an interface.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Slot {
    pub(super) number: u32,
    /// Its counters are those of somebody else.
    pub(super) is_fresh: bool,
}

/// The slot that an interface's link names, or one that nobody needs. `links`: index and slot of
/// each.
pub(super) fn choose_slot(
    owners: &[Option<String>],
    in_use: &[u32],
    links: &[(u32, u32)],
    index: u32,
) -> Option<Slot> {
    let free = || (0..maps::MAX_INTERFACES).filter(|slot| !in_use.contains(slot));
    let has_owner = |slot: u32| owners.get(slot as usize).is_some_and(Option::is_some);
    let linked = links.iter().find(|(of, _)| *of == index).map(|(_, slot)| *slot);
    if let Some(number) = free().find(|slot| linked == Some(*slot) && !has_owner(*slot)) {
        return Some(Slot { number, is_fresh: false });
    }
    // A slot that some link names may still be counted in.
    let is_linked = |slot: u32| links.iter().any(|(_, of)| *of == slot);
    let number = free()
        .find(|slot| !has_owner(*slot) && !is_linked(*slot))
        .or_else(|| free().find(|slot| !has_owner(*slot)))
        .or_else(|| free().next())?;
    Some(Slot { number, is_fresh: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(slots: &[(u32, &str)]) -> Vec<Option<String>> {
        let mut all = vec![None; maps::MAX_INTERFACES as usize];
        for (slot, name) in slots {
            all[*slot as usize] = Some((*name).to_owned());
        }
        all
    }

    #[test]
    fn an_interface_keeps_its_counters_and_gets_nobody_elses() {
        let kept = |number| Some(Slot { number, is_fresh: false });
        let fresh = |number| Some(Slot { number, is_fresh: true });
        let owners = named(&[(0, "eth0"), (2, "gone0")]);
        assert_eq!(choose_slot(&owners, &[0], &[(9, 5)], 9), kept(5), "its link says so");
        assert_eq!(choose_slot(&owners, &[0], &[(9, 2)], 9), fresh(1), "not its counters");
        assert_eq!(choose_slot(&owners, &[0], &[(7, 1)], 9), fresh(3), "another counts");
        let full = vec![Some("x".to_owned()); maps::MAX_INTERFACES as usize];
        assert_eq!(choose_slot(&full, &[0, 1], &[], 9), fresh(2), "nobody has it now");
        let all: Vec<u32> = (0..maps::MAX_INTERFACES).collect();
        assert_eq!(choose_slot(&full, &all, &[], 9), None);
    }
}
