//! The configuration file as written: what the TOML parser hands to the checks.
//!
//! Values keep their place in the file, so that a check can point at them. Keys of INTERFACE that
//! this version does not support are recognised here ([`Later`]) and refused by the checks, which
//! tells them apart from misspelled ones. The doc comments are the reference manual.

pub(super) mod access;
pub(super) mod http;
pub(super) mod kernel;
pub(super) mod shapes;

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use self::{
    access::{AuthDocument, CorsDocument, HeadersDocument, LimitDocument},
    http::HttpDocument,
    kernel::KernelDocument,
    shapes::SecretDocument,
};

/// A string with its place.
pub(super) type Text = Spanned<String>;
/// An integer with its place.
pub(super) type Number = Spanned<i64>;
/// A boolean with its place.
pub(super) type Flag = Spanned<bool>;
/// The value of a key that is known and not supported by this version.
pub(super) type Later = Spanned<toml::Value>;
/// `[section.NAME]` tables, by name.
pub(super) type Tables<T> = BTreeMap<Text, Spanned<T>>;

/// `/etc/limiter/limiter.toml`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Document {
    /// `public`, `private`, `internal` or `elizaos`: fills what the file leaves out.
    pub(super) preset: Option<Text>,
    /// Paths and the proxy's user.
    pub(super) agent: AgentDocument,
    /// The packet half; without the section: HTTP only.
    pub(super) kernel: Option<KernelDocument>,
    /// The request half; without the section, an upstream and a preset: packets only.
    pub(super) http: Option<HttpDocument>,
    /// `[limits.NAME]`: rate limits that routes name.
    pub(super) limits: Tables<LimitDocument>,
    /// `[auth.NAME]`: authentication schemes that routes name.
    pub(super) auth: Tables<AuthDocument>,
    /// `[cors.NAME]`: cross-origin policies that routes name.
    pub(super) cors: Tables<CorsDocument>,
    /// `[headers.NAME]`: response header policies that routes name.
    pub(super) headers: Tables<HeadersDocument>,
    /// `[validate.NAME]`: not supported by this version.
    pub(super) validate: Option<Later>,
    /// `[detect.NAME]`: not supported by this version.
    pub(super) detect: Option<Later>,
    /// Evidence to ban.
    pub(super) escalation: EscalationDocument,
    /// Where events go.
    pub(super) events: EventsDocument,
    /// `[[feeds]]`: not supported by this version.
    pub(super) feeds: Option<Later>,
    /// Where limiter state lives.
    pub(super) store: StoreDocument,
    /// The TCP side of the admin API.
    pub(super) admin: AdminDocument,
}

/// `[agent]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct AgentDocument {
    /// State directory. Default `/var/lib/limiter`.
    pub(super) state: Option<Text>,
    /// Runtime directory: control socket, lock. Default `/run/limiter`.
    pub(super) runtime: Option<Text>,
    /// Directory on a BPF file system for pins. Default `/sys/fs/bpf/limiter`.
    pub(super) pins: Option<Text>,
    /// User of the proxy process. Default: `limiter` if it exists, else `nobody`.
    pub(super) user: Option<Text>,
}

/// `[escalation]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct EscalationDocument {
    /// `false`: nobody is banned by evidence. Default `true`.
    pub(super) enabled: Option<Flag>,
    /// `enforce` or `monitor`.
    pub(super) mode: Option<Text>,
    /// Points by refusal label. Default `{ invalid_credential = 5, malformed_request = 25,
    /// rate_limited_far = 5 }`; a label that is given replaces its default, 0 takes it out.
    pub(super) scores: BTreeMap<Text, Number>,
    /// Points within `window` that make a ban. Default 50.
    pub(super) threshold: Option<Number>,
    /// How far back points count. Default `60s`.
    pub(super) window: Option<Text>,
    /// Length of bans.
    pub(super) ban: BanDocument,
    /// An address that authenticated within this is throttled, not banned. Default `1h`.
    pub(super) shared_address_guard: Option<Text>,
    /// `kernel` (default) or `http`.
    pub(super) scope: Option<Text>,
}

/// `escalation.ban`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct BanDocument {
    /// Length of the first ban. Default `10m`.
    pub(super) first: Option<Text>,
    /// Each further one is this many times longer. Default 4.
    pub(super) factor: Option<Number>,
    /// No ban is longer. Default `7d`.
    pub(super) max: Option<Text>,
    /// After this long without a ban a source counts as new. Default `24h`.
    pub(super) decay: Option<Text>,
}

/// `[events]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct EventsDocument {
    /// `[[events.sink]]`. Default: standard error and `/var/log/limiter/security.log`, as text.
    pub(super) sink: Option<Vec<Spanned<SinkDocument>>>,
}

/// One `[[events.sink]]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct SinkDocument {
    /// `stderr` or `file`.
    pub(super) kind: Option<Text>,
    /// `text` (default) or `json`.
    pub(super) format: Option<Text>,
    /// Of a file.
    pub(super) path: Option<Text>,
    /// Of a file. Default `{ size = "100MB", keep = 10 }`.
    pub(super) rotate: Option<Spanned<RotateDocument>>,
    /// Which events. Default: all.
    pub(super) filter: FilterDocument,
    /// Of a webhook: not supported by this version.
    pub(super) url: Option<Later>,
}

/// `events.sink.rotate`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RotateDocument {
    /// Rotate when the file would grow beyond this.
    pub(super) size: Option<Text>,
    /// How many rotated files to keep.
    pub(super) keep: Option<Number>,
}

/// `events.sink.filter`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FilterDocument {
    /// Labels; `*` at the end matches any rest.
    pub(super) kinds: Option<Vec<Text>>,
}

/// `[store]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct StoreDocument {
    /// `local` (default) or `redis` (Valkey, too).
    pub(super) kind: Option<Text>,
    /// `redis://HOST:PORT`, with `/NUMBER` for another database than 0; `rediss://` with TLS.
    pub(super) url: Option<Text>,
    /// ACL user.
    pub(super) user: Option<Text>,
    /// Password of the user.
    pub(super) password: Option<Spanned<SecretDocument>>,
    /// PEM file of the authorities that the server's certificate must lead to. Default: the
    /// system's.
    pub(super) ca: Option<Text>,
    /// How long a request waits for an answer. Default `100ms`.
    pub(super) timeout: Option<Text>,
    /// What holds for limits while the store does not answer: `local` (default), `open` or
    /// `closed`.
    pub(super) on_failure: Option<Text>,
}

/// `[admin]`: only the control socket in this version.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct AdminDocument {
    /// Not supported by this version.
    pub(super) listen: Option<Later>,
    /// Not supported by this version.
    pub(super) token: Option<Later>,
}
