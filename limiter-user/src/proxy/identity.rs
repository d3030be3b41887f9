//! Who a verified credential speaks for, as limits, events and the upstream know them.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

/// What the caller may do, for the upstream.
const X_AUTH_SCOPES: HeaderName = HeaderName::from_static("x-auth-scopes");

/// A caller that proved who it is.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    /// The principal: what limits count by and events name.
    pub(super) name: Arc<str>,
    /// The same, for the upstream.
    pub(super) subject: HeaderValue,
    /// What it pays for, if the credential says so.
    pub(super) tier: Option<Tier>,
    /// What it may do.
    pub(super) scopes: Arc<[Box<str>]>,
    /// What else is said of it, for the upstream.
    pub(super) said: Vec<(HeaderName, HeaderValue)>,
}

/// A tier of service.
#[derive(Clone, Debug)]
pub(super) struct Tier {
    /// Its name.
    pub(super) name: Arc<str>,
    /// The same, for the upstream.
    pub(super) label: HeaderValue,
}

impl Identity {
    /// `Err`: a name that is not a header value, with which of them it is. The upstream hears of
    /// scopes, if there are any.
    pub(super) fn new(
        name: &str,
        tier: Option<&str>,
        scopes: impl IntoIterator<Item = Box<str>>,
    ) -> Result<Self, &'static str> {
        let value = |text: &str, what| HeaderValue::from_str(text).map_err(|_| what);
        let tier = tier.map(|tier| -> Result<_, &'static str> {
            Ok(Tier { name: tier.into(), label: value(tier, "the tier is not a header value")? })
        });
        let scopes: Arc<[Box<str>]> = scopes.into_iter().collect();
        let said = match &*scopes {
            [] => Vec::new(),
            all => vec![(X_AUTH_SCOPES, value(&all.join(" "), "a scope is not a header value")?)],
        };
        Ok(Self {
            name: name.into(),
            subject: value(name, "the principal is not a header value")?,
            tier: tier.transpose()?,
            scopes,
            said,
        })
    }

    /// Whether it may do all of this.
    pub(super) fn may(&self, scopes: &[Box<str>]) -> bool {
        scopes.iter().all(|scope| self.scopes.contains(scope))
    }
}
