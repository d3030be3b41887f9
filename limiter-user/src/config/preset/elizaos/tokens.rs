//! `ENABLE_DATA_ISOLATION`: whose tokens an ElizaOS server asks for beside the key, from the
//! variables that it reads itself. Where they name no key to verify with, nothing is served: that
//! server would let every token through.

use rustls::pki_types::{SubjectPublicKeyInfoDer, pem::PemObject as _};
use toml::Spanned;

use crate::{
    config::{Scope, auth::jwt, error::Report},
    credentials::jwt::{Algorithm, Family},
    policy::{
        Mode,
        auth::{
            AuthKind, AuthPolicy,
            jwt::{JwtKeys, JwtPolicy},
        },
        listener::SecretBytes,
    },
};

const ISOLATION: &str = "ENABLE_DATA_ISOLATION";
const PUBLIC_KEYS: [&str; 2] = ["PRIVY_VERIFICATION_KEY", "JWT_ED25519_PUBLIC_KEY"];
const JWKS: &str = "JWT_JWKS_URI";
const SECRET: &str = "JWT_SECRET";
const ISSUERS: &str = "JWT_ISSUER_WHITELIST";

/// Name of the scheme; of several issuers the further ones have a number behind it.
const NAME: &str = "data-isolation";

/// The schemes, one for each issuer; none where tokens are not asked for.
pub(in crate::config) fn schemes(scope: &Scope<'_>, report: &mut Report) -> Vec<AuthPolicy> {
    match scope.sources.variable(ISOLATION).as_deref() {
        None | Some("false") => return Vec::new(),
        Some("true") => {}
        Some(other) => {
            report.refuse(ISOLATION, format!("{other:?} is not one of \"true\", \"false\""));
            return Vec::new();
        }
    }
    let Some((algorithms, keys)) = keys(scope, report) else {
        return Vec::new();
    };
    let mut schemes = Vec::new();
    for (place, issuer) in issuers(scope).into_iter().enumerate() {
        let policy = JwtPolicy {
            issuer,
            audience: Vec::new(),
            algorithms: algorithms.clone(),
            tolerance: jwt::DEFAULT_TOLERANCE,
            tier_claim: None,
            keys: keys.clone(),
            revoked: None,
        };
        if let (0, Err(why)) = (place, policy.keys()) {
            report.refuse(ISOLATION, why);
        }
        let name = if place == 0 { NAME.to_owned() } else { format!("{NAME}-{}", place + 1) };
        schemes.push(AuthPolicy {
            name,
            kind: AuthKind::Jwt(policy),
            // That server reads it too.
            hide_credentials: false,
            mode: Mode::Enforce,
        });
    }
    schemes
}

/// The first of the variables that is set, as that server chooses.
fn keys(scope: &Scope<'_>, report: &mut Report) -> Option<(Vec<Algorithm>, JwtKeys)> {
    let variable = |name: &str| scope.sources.variable(name);
    for name in PUBLIC_KEYS {
        if let Some(text) = variable(name) {
            let pem = text.replace("\\n", "\n");
            // The parser's message may quote what it could not read.
            let Ok(der) = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()) else {
                report.refuse(name, "holds no public key in PEM (BEGIN PUBLIC KEY)");
                return None;
            };
            let keys = JwtKeys::Public { file: None, spki: der.as_ref().to_vec() };
            return Some((vec![Algorithm::EdDsa], keys));
        }
    }
    let of = |family: fn(Family) -> bool| -> Vec<Algorithm> {
        Algorithm::ALL.into_iter().filter(|algorithm| family(algorithm.family())).collect()
    };
    if let Some(url) = variable(JWKS) {
        if !url.starts_with("https://") && !url.starts_with("http://") {
            report.refuse(JWKS, "expected a URL, e.g. \"https://id.example.com/jwks.json\"");
            return None;
        }
        let name = Spanned::new(0..0, NAME.to_owned());
        let keys = jwt::published(&name, &Spanned::new(0..0, url), None, scope, report)?;
        return Some((of(|family| family != Family::Secret), keys));
    }
    if let Some(secret) = variable(SECRET) {
        let fits = |algorithm: &Algorithm| secret.len() >= algorithm.hash_bytes();
        let algorithms = of(|family| family == Family::Secret);
        let algorithms: Vec<Algorithm> = algorithms.into_iter().filter(fits).collect();
        if algorithms.is_empty() {
            report.refuse(SECRET, "a secret of fewer than 32 bytes can be guessed from one token");
            return None;
        }
        let secret = SecretBytes::new(secret.into_bytes());
        return Some((algorithms, JwtKeys::Secret { file: None, secret }));
    }
    let help = format!("set {}, {JWKS} or {SECRET}", PUBLIC_KEYS.join(", "));
    report.refuse_with(ISOLATION, "no key is named that tokens can be verified with", help);
    None
}

/// Nothing, or `*`: whoever has the key.
fn issuers(scope: &Scope<'_>) -> Vec<Option<String>> {
    let text = scope.sources.variable(ISSUERS).unwrap_or_default();
    let named = text.split(',').map(str::trim).filter(|issuer| !issuer.is_empty());
    let named: Vec<Option<String>> = named.map(|issuer| Some(issuer.to_owned())).collect();
    if named.is_empty() || text.trim() == "*" { vec![None] } else { named }
}
