//! Whether a policy fits into one frame of the link: said where it is read, not found out by a
//! proxy that never gets it.

use serde::Serialize;

use super::MAX_FRAME_BYTES;
use crate::policy::{HttpPolicy, auth::AuthKind};

/// What a message has beside its policy, and to spare.
const BESIDE_BYTES: usize = 1024;

/// `Err`: the policy is too large to be sent to the proxy, with what it is that takes the room.
pub fn check(policy: &HttpPolicy) -> Result<(), String> {
    let (all, most) = (bytes(policy), MAX_FRAME_BYTES - BESIDE_BYTES);
    if all <= most {
        return Ok(());
    }
    let mut parts = [("revoked tokens", 0), ("API keys", 0), ("key sets", 0), ("TLS", 0)];
    for scheme in &policy.auth {
        match &scheme.kind {
            AuthKind::Jwt(jwt) => {
                parts[0].1 += jwt.revoked.as_ref().map_or(0, |list| bytes(&list.entries));
                parts[2].1 += bytes(&jwt.keys);
            }
            AuthKind::ApiKey(keys) => parts[1].1 += bytes(keys),
            _ => {}
        }
    }
    parts[3].1 = policy.listeners.iter().map(|listener| bytes(&listener.tls)).sum();
    parts.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let told = parts.iter().filter(|(_, bytes)| *bytes >= most / 16);
    let told: Vec<String> = told.map(|(what, bytes)| format!("{what} {}", mib(*bytes))).collect();
    let told = if told.is_empty() { String::new() } else { format!(" ({})", told.join(", ")) };
    Err(format!(
        "the proxy gets the HTTP policy with all that is in its files at once, at most {}; this is \
         {}{told}",
        mib(MAX_FRAME_BYTES),
        mib(all)
    ))
}

/// As sent. What cannot be serialised fits nowhere.
fn bytes(part: &impl Serialize) -> usize {
    postcard::experimental::serialized_size(part).unwrap_or(usize::MAX / 64)
}

fn mib(bytes: usize) -> String {
    let tenths = (bytes * 10).div_ceil(1 << 20);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}
