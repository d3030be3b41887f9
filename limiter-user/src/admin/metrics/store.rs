//! What is told of the store that hosts share.

use super::{Kind, Metric, of_map, plain};

pub(super) const REQUESTS: Metric = Metric {
    name: "store_requests",
    kind: Kind::Counter,
    labels: &["result"],
    help: "Requests whose limits hosts share, by what the store said: `answered`, `failed` \
           (nothing, or too late), `absent` (not asked: it was lost), `remembered` (not asked: \
           it refused the same a moment ago)",
    samples: |status| status.store.iter().flat_map(|it| of_map(&it.requests)).collect(),
};

pub(super) const UNREADABLE: Metric = Metric {
    name: "store_unreadable",
    kind: Kind::Counter,
    labels: &[],
    help: "Values of limits in the store that nobody who counts wrote; each was taken for nothing",
    samples: |status| status.store.iter().flat_map(|it| plain(it.unreadable)).collect(),
};

pub(super) const BANS: Metric = Metric {
    name: "store_bans",
    kind: Kind::Counter,
    labels: &["change"],
    help: "Bans that hosts share: `said` to others, `followed` (others made or lifted them), \
           `refused` (others made them, not enforced here), `left_out` (the store has no \
           room), `unreadable`",
    samples: |status| status.store.iter().flat_map(|it| of_map(&it.bans)).collect(),
};

pub(super) const UP: Metric = Metric {
    name: "store_up",
    kind: Kind::Gauge,
    labels: &[],
    help: "1 while limits are counted where hosts share them; absent without such a store",
    samples: |status| {
        status.store.iter().flat_map(|it| plain(u64::from(it.state == "up"))).collect()
    },
};
