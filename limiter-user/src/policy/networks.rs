//! Lists of networks that may be long: a million entries in one allocation that copies share.

use std::{ops::Deref, sync::Arc};

use ipnet::IpNet;

/// Networks in order, each once. A copy costs nothing, and comparing with it neither; 20 bytes an
/// entry.
#[derive(Clone, Debug, Eq)]
pub struct Networks(Arc<[IpNet]>);

impl PartialEq for Networks {
    /// The standard library looks at every entry of a shared slice, also of the same one.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Default for Networks {
    fn default() -> Self {
        Self(Arc::new([]))
    }
}

impl From<Vec<IpNet>> for Networks {
    fn from(mut networks: Vec<IpNet>) -> Self {
        // Often it is a list in order, and a few more: the stable sort merges such runs.
        networks.sort();
        networks.dedup();
        Self(networks.into())
    }
}

impl FromIterator<IpNet> for Networks {
    fn from_iter<I: IntoIterator<Item = IpNet>>(networks: I) -> Self {
        networks.into_iter().collect::<Vec<_>>().into()
    }
}

impl Deref for Networks {
    type Target = [IpNet];

    fn deref(&self) -> &[IpNet] {
        &self.0
    }
}

impl<'a> IntoIterator for &'a Networks {
    type Item = &'a IpNet;
    type IntoIter = std::slice::Iter<'a, IpNet>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn are_in_order_and_each_once() {
        let networks = |texts: &[&str]| -> Networks {
            texts.iter().map(|text| text.parse::<IpNet>().unwrap()).collect()
        };
        let mixed = networks(&["2001:db8::/32", "10.2.0.0/16", "10.0.0.0/8", "10.2.0.0/16"]);
        assert_eq!(mixed, networks(&["10.0.0.0/8", "10.2.0.0/16", "2001:db8::/32"]));
        assert_eq!(mixed.len(), 3);
        assert!(Networks::default().is_empty());
    }

    #[test]
    fn a_million_are_small_and_compared_at_once() {
        let million: Networks = (0..1_000_000_u32)
            .map(|number| IpNet::from(std::net::IpAddr::from(Ipv4Addr::from(number << 8))))
            .collect();
        assert_eq!(million.len(), 1_000_000);
        assert!(size_of::<IpNet>() <= 20);
        let copy = million.clone();
        assert!(copy == million && Arc::ptr_eq(&copy.0, &million.0));
        // Would take many minutes if it looked at every entry.
        assert!((0..100_000).all(|_| copy == million));
    }
}
