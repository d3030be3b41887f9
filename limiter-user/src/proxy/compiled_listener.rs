//! Listeners as connections read them: TLS ready for handshakes, where to redirect to.
//!
//! In: the policy's listeners; out: what each core finds by the address that it accepts from.

use std::sync::Arc;

use rustls::ServerConfig;

use super::tls::TlsConfigs;
use crate::policy::listener::{ListenAddress, ListenerPolicy};

/// One listener.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) address: ListenAddress,
    pub(super) tls: Option<Arc<ServerConfig>>,
    pub(super) proxy_protocol: bool,
    /// Send requests to HTTPS.
    pub(super) redirect: Option<Redirect>,
}

/// Where HTTPS is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Redirect {
    /// Port of the listener that redirects; `None`: not known.
    pub(super) from_port: Option<u16>,
    /// Port of the first listener with TLS; `None`: not known.
    pub(super) to_port: Option<u16>,
}

/// All listeners of a policy.
pub(super) type Listeners = Arc<Vec<Arc<Listener>>>;

/// Makes them ready. What no listener uses any more is forgotten.
pub(super) fn compile(
    policies: &[ListenerPolicy],
    configs: &mut TlsConfigs,
) -> Result<Listeners, String> {
    let secure = policies.iter().find(|listener| listener.tls.is_some());
    let to_port = secure.and_then(|listener| listener.address.port());
    let listeners = policies
        .iter()
        .map(|policy| {
            let from_port = policy.address.port();
            Ok(Arc::new(Listener {
                address: policy.address.clone(),
                tls: policy.tls.as_ref().map(|tls| configs.of(tls)).transpose()?,
                proxy_protocol: policy.proxy_protocol,
                redirect: policy.redirect_https.then_some(Redirect { from_port, to_port }),
            }))
        })
        .collect::<Result<Vec<_>, String>>()?;
    configs.retain(policies);
    Ok(Arc::new(listeners))
}
