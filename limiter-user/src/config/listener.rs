//! `[[http.listener]]`: written -> checked, with certificates and keys read.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use super::{
    DEFAULT_LISTEN, Scope,
    document::{
        Flag,
        http::{HttpDocument, ListenerDocument},
    },
    error::{Place, Report},
    tls,
};
use crate::policy::{
    http::ClientAddressSource,
    listener::{ListenAddress, ListenerPolicy},
};

/// Below the bound of the kernel (107), with room for a name beside it.
const MAX_UNIX_PATH_BYTES: usize = 96;

pub(super) fn check(
    written: &HttpDocument,
    scope: &Scope<'_>,
    report: &mut Report,
) -> Vec<ListenerPolicy> {
    let in_file: Vec<ListenerPolicy> =
        written.listener.iter().filter_map(|listener| one(listener, scope, report)).collect();
    for (index, listener) in in_file.iter().enumerate() {
        if in_file[..index].iter().any(|other| other.address == listener.address) {
            let place = written.listener.get(index).map_or_else(
                || Place::from("http.listener"),
                |document| document.address.span().into(),
            );
            report.refuse(place, format!("{} is named twice", listener.address));
        }
    }
    let sources = scope.sources;
    let Some((place, named)) = sources.list(&sources.listen, "--listen", "LIMITER_LISTEN") else {
        return if written.listener.is_empty() {
            let address = report.parsed("http.listener", DEFAULT_LISTEN, parse);
            address.into_iter().map(ListenerPolicy::plain).collect()
        } else {
            in_file
        };
    };
    instead(&place, &named, &in_file, report)
}

/// Those that are named outside of the file, each as the file has it if it does.
fn instead(
    place: &Place,
    named: &[String],
    in_file: &[ListenerPolicy],
    report: &mut Report,
) -> Vec<ListenerPolicy> {
    let mut listeners: Vec<ListenerPolicy> = Vec::new();
    let has_tls = in_file.iter().any(|listener| listener.tls.is_some());
    for text in named {
        let Some(address) = report.parsed(place.clone(), text, parse) else {
            continue;
        };
        if listeners.iter().any(|other| other.address == address) {
            report.refuse(place.clone(), format!("{address} is named twice"));
            continue;
        }
        let known = in_file.iter().find(|listener| listener.address == address).cloned();
        if known.is_none() && has_tls {
            let sentence = format!("{address} is without TLS; listeners in the file have it");
            report.risk(place.clone(), sentence);
        }
        listeners.push(known.unwrap_or_else(|| ListenerPolicy::plain(address)));
    }
    listeners
}

fn one(
    written: &ListenerDocument,
    scope: &Scope<'_>,
    report: &mut Report,
) -> Option<ListenerPolicy> {
    let address = report.value(&written.address, parse);
    let tls = written.tls.as_ref().map(|tls| tls::check(tls, scope, report));
    if let (Some(_), Some(flag)) = (&tls, written.redirect_https.as_ref().filter(|f| *f.get_ref()))
    {
        report.refuse(flag.span(), "a listener with `tls` has nowhere to redirect to");
    }
    Some(ListenerPolicy {
        address: match address? {
            ListenAddress::Unix(path) => ListenAddress::Unix(scope.base.join(path)),
            other => other,
        },
        tls: match tls {
            Some(tls) => Some(tls?),
            None => None,
        },
        proxy_protocol: is_set(written.proxy_protocol.as_ref()),
        redirect_https: is_set(written.redirect_https.as_ref()),
    })
}

fn is_set(flag: Option<&Flag>) -> bool {
    flag.is_some_and(|flag| *flag.get_ref())
}

/// What listeners, `client_address` and `trusted_proxies` need of each other.
pub(super) fn agree(
    written: &HttpDocument,
    listeners: &[ListenerPolicy],
    source: ClientAddressSource,
    report: &mut Report,
) {
    let is_proxy = source == ClientAddressSource::Proxy;
    for listener in &written.listener {
        if let Some(flag) = listener.proxy_protocol.as_ref().filter(|flag| *flag.get_ref())
            && !is_proxy
        {
            report.refuse_with(
                flag.span(),
                "what its header says would be used for nothing",
                "client_address = \"proxy\" and trusted_proxies = [\"10.0.0.1\"] in [http]",
            );
        }
        if let Some(flag) = listener.redirect_https.as_ref().filter(|flag| *flag.get_ref())
            && !listeners.iter().any(|other| other.tls.is_some())
        {
            report.refuse(flag.span(), "no listener has `tls`: there is nothing to redirect to");
        }
    }
    if let (true, Some(key)) = (is_proxy, &written.client_address)
        && !listeners.iter().any(|listener| listener.proxy_protocol)
    {
        report.refuse_with(
            key.span(),
            "no listener expects the PROXY protocol",
            "proxy_protocol = true in a [[http.listener]]",
        );
    }
}

fn parse(text: &str) -> Result<ListenAddress, String> {
    let expected = "expected ADDRESS:PORT, e.g. \"127.0.0.1:8080\", \"0.0.0.0:80\" or \
                    \"[::]:80\", or \"unix:PATH\" or \"systemd:NAME\"";
    if let Some(path) = text.strip_prefix("unix:") {
        return if path.is_empty() || path.contains('\0') || path.len() > MAX_UNIX_PATH_BYTES {
            Err(format!("the path of a Unix socket has 1 to {MAX_UNIX_PATH_BYTES} bytes"))
        } else {
            Ok(ListenAddress::Unix(PathBuf::from(path)))
        };
    }
    if let Some(name) = text.strip_prefix("systemd:") {
        let plain = |byte: u8| byte.is_ascii_graphic() && byte != b':';
        return if name.is_empty() || name.len() > 255 || !name.bytes().all(plain) {
            Err("expected the socket's FileDescriptorName=, e.g. \"systemd:limiter.socket\""
                .to_owned())
        } else {
            Ok(ListenAddress::Systemd(name.to_owned()))
        };
    }
    let parsed: Option<SocketAddr> = match text.split_once(':') {
        Some(("localhost", port)) => {
            port.parse().ok().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        }
        _ => text.parse().ok(),
    };
    parsed.map(ListenAddress::Tcp).ok_or_else(|| expected.to_owned())
}
