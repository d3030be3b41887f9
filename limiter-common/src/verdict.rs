//! What is decided about a packet: the one list of actions and reasons that the kernel program,
//! counters, events, metrics and the command line share.

/// What happens to a packet.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum Action {
    /// Goes on into the network stack.
    Pass = 0,
    /// Ends here.
    Drop = 1,
    /// Would end here if the kernel half enforced; goes on.
    Monitor = 2,
    /// Is answered in place of the network stack: leaves by the interface it came from.
    Tx = 3,
}

impl Action {
    /// Every action, in order of value.
    pub const ALL: [Self; 4] = [Self::Pass, Self::Drop, Self::Monitor, Self::Tx];

    /// Stable label, the `verdict` of metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
            Self::Monitor => "monitor",
            Self::Tx => "tx",
        }
    }
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $label:literal;)+) => {
        /// Why. Values are dense from 0 and index the counters of both sides.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[repr(u8)]
        pub enum Reason { $($(#[doc = $doc])+ $variant,)+ }

        impl Reason {
            /// Every reason, in order of value.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Stable label of counters, events, metrics and documentation.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }

            /// One sentence for the documentation.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

reasons! {
    /// Nothing speaks against the packet.
    Allowed = "allowed";
    /// Neighbour discovery, DHCP and the like: always passed, or the host loses its network.
    Essential = "essential";
    /// A trusted source: never banned, denied or limited.
    Trusted = "trusted";
    /// Belongs to a connection that this host opened.
    Reply = "reply";
    /// Refused by ban or list, but addressed to a failsafe port.
    Failsafe = "failsafe";
    /// On its way through this host to another one, which is not limited unless asked for.
    Forwarded = "forwarded";
    /// Admitted without a slot of its own: one of a flood of new sources, of which only those that
    /// send more are tracked.
    Untracked = "untracked";
    /// A connection request to a flooded listener, answered with a SYN cookie.
    SynCookie = "syn_cookie";
    /// The source is banned.
    Banned = "banned";
    /// The source is on the deny list.
    Denied = "denied";
    /// No list admits the source, where the default is to deny or its service has a list.
    NotAllowed = "not_allowed";
    /// The source sends more packets than allowed.
    PacketRate = "packet_rate";
    /// The source sends more bytes than allowed.
    ByteRate = "byte_rate";
    /// The source opens more connections than allowed.
    ConnectionRate = "connection_rate";
    /// The source has more connections open than allowed.
    TooManyConnections = "too_many_connections";
    /// The source sends more UDP packets than allowed.
    UdpRate = "udp_rate";
    /// The source sends more ICMP packets than allowed.
    IcmpRate = "icmp_rate";
    /// All sources together exceed a limit of the host or of a service.
    TotalRate = "total_rate";
    /// The headers contradict themselves or end too early.
    Malformed = "malformed";
    /// An IP fragment, where the policy is not to limit but to drop or pass them.
    Fragment = "fragment";
    /// No slot is left in which to count the source.
    TableFull = "table_full";
}

impl Reason {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// The reason of this value, if it is one.
    pub fn from_value(value: u8) -> Option<Self> {
        Self::ALL.get(usize::from(value)).copied()
    }
}

/// Action and reason together: what `decide` returns.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Verdict {
    /// What happens.
    pub action: Action,
    /// Why.
    pub reason: Reason,
}

impl Verdict {
    /// How many counters an interface has: one per action and reason.
    pub const COUNTERS: usize = Action::ALL.len() * Reason::COUNT;

    /// Lets the packet through.
    pub const fn pass(reason: Reason) -> Self {
        Self { action: Action::Pass, reason }
    }

    /// Answers the packet.
    pub const fn answer(reason: Reason) -> Self {
        Self { action: Action::Tx, reason }
    }

    /// Ends the packet.
    pub const fn drop(reason: Reason) -> Self {
        Self { action: Action::Drop, reason }
    }

    /// Index of this verdict's counter, below [`Self::COUNTERS`].
    pub const fn counter(self) -> usize {
        self.action as usize * Reason::COUNT + self.reason as usize
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn values_are_dense_and_labels_unique() {
        let labels: HashSet<_> = Reason::ALL.iter().map(|reason| reason.label()).collect();
        assert_eq!(labels.len(), Reason::COUNT);
        for (value, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, value);
            assert_eq!(Reason::from_value(u8::try_from(value).unwrap()), Some(*reason));
        }
        assert_eq!(Reason::from_value(u8::try_from(Reason::COUNT).unwrap()), None);
    }

    #[test]
    fn every_verdict_has_a_counter_of_its_own() {
        let mut seen = HashSet::new();
        for action in Action::ALL {
            for reason in Reason::ALL {
                let counter = Verdict { action, reason: *reason }.counter();
                assert!(counter < Verdict::COUNTERS);
                assert!(seen.insert(counter));
            }
        }
    }
}
