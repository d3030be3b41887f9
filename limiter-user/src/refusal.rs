//! Why a request was refused: the one list that status codes, events, metrics and scores share.

use serde::{Deserialize, Serialize};

/// Whose doing a refusal is; decides the log level.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Blame {
    /// The client's.
    Client,
    /// The upstream's.
    Upstream,
    /// Ours or the host's (overload).
    Host,
}

macro_rules! refusals {
    ($($(#[doc = $doc:literal])+ $variant:ident = $label:literal, $status:literal, $blame:ident;)+) => {
        /// Why a request was refused.
        #[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Refusal { $($(#[doc = $doc])+ $variant,)+ }

        impl Refusal {
            /// Every refusal, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Stable label of events, metrics, scores and documentation.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }

            /// HTTP status of the answer.
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)+ }
            }

            /// Whose doing it is.
            pub const fn blame(self) -> Blame {
                match self { $(Self::$variant => Blame::$blame,)+ }
            }

            /// One sentence for the documentation.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

refusals! {
    /// The request could be read in two ways, or breaks the protocol.
    MalformedRequest = "malformed_request", 400, Client;
    /// A minor version of HTTP/1 that is not spoken here.
    UnsupportedVersion = "unsupported_version", 505, Client;
    /// The connection was made for another host name (RFC 9110, 15.5.20).
    Misdirected = "misdirected", 421, Client;
    /// A credential or a body was sent without TLS where only redirects to HTTPS are served (403), or
    /// plain HTTP where TLS is spoken (400).
    HttpsRequired = "https_required", 403, Client;
    /// The client address is banned (scope `http`).
    Banned = "banned", 403, Client;
    /// The route does not admit this client address.
    ForbiddenAddress = "forbidden_address", 403, Client;
    /// No route matches.
    NotFound = "not_found", 404, Client;
    /// The route does not admit this method.
    MethodNotAllowed = "method_not_allowed", 405, Client;
    /// A cross-origin request that the policy does not admit.
    CorsRefused = "cors_refused", 403, Client;
    /// Too many failed attempts from this address; the credential was not checked.
    Guarded = "guarded", 429, Client;
    /// No credential was presented where one is required.
    Unauthorized = "unauthorized", 401, Client;
    /// A credential was presented that is not valid.
    InvalidCredential = "invalid_credential", 401, Client;
    /// A signed message that was used before.
    Replayed = "replayed", 401, Client;
    /// The caller is known, and may not do this.
    ForbiddenScope = "forbidden_scope", 403, Client;
    /// Over a rate limit.
    RateLimited = "rate_limited", 429, Client;
    /// Far over a rate limit: the client goes on regardless of refusals.
    RateLimitedFar = "rate_limited_far", 429, Client;
    /// As many requests of this client are under way as may be at once.
    ConcurrencyLimited = "concurrency_limited", 429, Client;
    /// The body is larger than allowed.
    BodyTooLarge = "body_too_large", 413, Client;
    /// The body is of a media type that the route does not admit, or of none.
    UnsupportedMediaType = "unsupported_media_type", 415, Client;
    /// The request head is larger than allowed.
    HeadTooLarge = "head_too_large", 431, Client;
    /// The request did not arrive in time.
    Timeout = "timeout", 408, Client;
    /// A bound on connections or memory is reached.
    Overloaded = "overloaded", 503, Host;
    /// The upstream could not be reached or broke the protocol.
    UpstreamFailed = "upstream_failed", 502, Upstream;
    /// The upstream did not answer in time.
    UpstreamTimeout = "upstream_timeout", 504, Upstream;
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn labels_are_unique_and_serialise_as_themselves() {
        let labels: HashSet<_> = Refusal::ALL.iter().map(|refusal| refusal.label()).collect();
        assert_eq!(labels.len(), Refusal::ALL.len());
        for refusal in Refusal::ALL {
            let json = serde_json::to_string(refusal).unwrap();
            assert_eq!(json, format!("\"{}\"", refusal.label()));
        }
    }
}
