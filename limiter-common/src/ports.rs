//! A few ports, looked up without a branch.

/// How many ports a set holds.
pub const MAX_PORTS: usize = 16;

const LANES: usize = 4;
const LOW_BITS: u64 = 0x0001_0001_0001_0001;
const HIGH_BITS: u64 = 0x8000_8000_8000_8000;

/// Up to [`MAX_PORTS`] ports, four to a word; 0 is no port.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct PortSet([u64; MAX_PORTS / LANES]);

impl PortSet {
    /// No port.
    pub const EMPTY: Self = Self([0; MAX_PORTS / LANES]);

    /// These ports; `None` where they are too many.
    pub fn new(ports: &[u16]) -> Option<Self> {
        let mut set = Self::EMPTY;
        for (index, port) in ports.iter().enumerate() {
            let word = set.0.get_mut(index / LANES)?;
            *word |= u64::from(*port) << (index % LANES * 16);
        }
        Some(set)
    }

    /// The words of the set.
    pub(crate) const fn words(&self) -> [u64; MAX_PORTS / LANES] {
        self.0
    }

    /// Whether this port is in the set.
    ///
    /// A lane equal to the port becomes zero; subtracting 1 from each lane then borrows into its
    /// high bit (Warren, Hacker's Delight, 6-1). One branch instead of one per port, or the
    /// verifier would follow every one of them.
    #[inline]
    pub fn holds(&self, port: u16) -> bool {
        let wanted = u64::from(port).wrapping_mul(LOW_BITS);
        let mut equal = 0;
        for word in self.0 {
            let difference = word ^ wanted;
            equal |= difference.wrapping_sub(LOW_BITS) & !difference & HIGH_BITS;
        }
        port != 0 && equal != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_it_was_given_and_nothing_else() {
        let ports = [22, 80, 443, 8080, 1, 65_535, 0x8000, 0x0100, 9];
        let set = PortSet::new(&ports).unwrap();
        for port in 0..=u16::MAX {
            assert_eq!(set.holds(port), ports.contains(&port), "{port}");
        }
        assert!(!PortSet::EMPTY.holds(0));
        assert_eq!(PortSet::new(&[1; MAX_PORTS + 1]), None);
        assert!(PortSet::new(&[1; MAX_PORTS]).is_some());
    }
}
