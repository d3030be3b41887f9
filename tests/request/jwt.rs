//! Bearer tokens of an issuer: `kind = "jwt"`.

mod attacks;
mod bound;
mod files;
mod issuer;
mod peers;

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use limiter_tests::{
    http,
    origin::{Behaviour, Origin},
    tokens::{Signer, key_set},
    wait::eventually,
};
use limiter_user::clock;
use serde_json::{Value, json};

use crate::support::{SOON, Site, configuration};

const ROUTE: &str = "auth = [\"login\"]\nlimits = \"none\"";

/// So that what is refused in one test is not refused for another reason a moment later.
const NO_BANS: &str = "[escalation]\nenabled = false\n";

/// A site, its issuer, and the issuer's keys.
struct Scene {
    site: Site,
    issuer: Origin,
    rsa: Signer,
}

impl Scene {
    fn start(route: &str, more: &str) -> Self {
        let mut scene = Self::prepare(route, more);
        scene.publish(&[scene.rsa.jwk("rsa")]);
        scene.site.limiter.restart();
        scene
    }

    /// Not started, and the issuer has nothing to say.
    fn prepare(route: &str, more: &str) -> Self {
        let site = Site::prepare("", route, "");
        let issuer = Origin::start(&site.namespace);
        issuer.by_default(Behaviour::status(404));
        let section = section(&format!("jwks_url = \"{}/keys\"\n{more}", issuer.url()));
        site.limiter.configure(&configuration(&site.origin, "", route, &section));
        Self { site, issuer, rsa: Signer::rsa() }
    }

    fn publish(&self, keys: &[Value]) {
        self.issuer.on("/keys", document(&key_set(keys)));
    }

    fn status(&self, token: &str) -> u16 {
        status(&self.site, token)
    }
}

/// The status of a request with this token, from an address of its own: what is refused there
/// counts against nobody else.
fn status(site: &Site, token: &str) -> u16 {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let [_, high, middle, low] = NUMBER.fetch_add(1, Relaxed).to_be_bytes();
    let source = format!("127.{}.{middle}.{low}", 100 + high % 100);
    let bearer = format!("Bearer {token}");
    let request = http::request("GET", "/", &[("Authorization", &bearer)], b"");
    site.send_from(&source, &request).status
}

fn section(more: &str) -> String {
    format!(
        "[auth.login]\nkind = \"jwt\"\nissuer = \"https://id.test\"\naudience = \"api\"\n{more}\n\
         {NO_BANS}"
    )
}

fn document(text: &str) -> Behaviour {
    let json = ("Content-Type".to_owned(), "application/json".to_owned());
    Behaviour::Answer(200, vec![json], text.as_bytes().to_vec())
}

fn get(site: &Site, token: &str) -> http::Response {
    site.get("/", &[("Authorization", &format!("Bearer {token}"))])
}

fn now() -> u64 {
    clock::unix_ns() / 1_000_000_000
}

/// Claims that are right, but for these; `null` takes one away.
fn claims(changes: &Value) -> Value {
    let mut all = json!({
        "iss": "https://id.test", "aud": "api", "sub": "alice", "exp": now() + 600, "iat": now(),
    });
    for (name, value) in changes.as_object().unwrap() {
        all[name] = value.clone();
    }
    all.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    all
}

#[test]
fn tokens_open_and_say_who_it_is() {
    let more =
        "algorithms = [\"RS256\", \"PS256\", \"ES256\", \"EdDSA\"]\ntier_claim = \"app.plan\"";
    let scene = Scene::start(ROUTE, more);
    let (ec, ed) = (Signer::p256(), Signer::ed25519());
    let first = scene.rsa.token("rsa", &claims(&json!({})));
    eventually(SOON, "the keys", || scene.status(&first) == 200);
    scene.publish(&[scene.rsa.jwk("rsa"), ec.jwk("ec"), ed.jwk("ed"), json!({"kty": "new"})]);
    eventually(SOON * 3, "the first token", || {
        scene.status(&ec.token("ec", &claims(&json!({})))) == 200
    });
    scene.site.origin.take();
    let said =
        json!({ "scope": "orders:read", "scp": ["orders:write"], "app": { "plan": "gold" } });
    for (signer, kid) in [(&scene.rsa, "rsa"), (&ec, "ec"), (&ed, "ed")] {
        let token = signer.token(kid, &claims(&said));
        assert_eq!(scene.status(&token), 200, "{kid}");
        let upstream = scene.site.origin.take_one(SOON);
        assert_eq!(upstream.header("x-auth-subject").as_deref(), Some("alice"));
        assert_eq!(upstream.header("x-auth-scheme").as_deref(), Some("login"));
        assert_eq!(upstream.header("x-auth-tier").as_deref(), Some("gold"));
        let scopes = "orders:read orders:write";
        assert_eq!(upstream.header("x-auth-scopes").as_deref(), Some(scopes));
        let bearer = format!("Bearer {token}");
        assert_eq!(upstream.header("authorization"), Some(bearer), "the upstream may read it too");
    }
    let pss = json!({ "alg": "PS256", "kid": "rsa" });
    assert_eq!(scene.status(&scene.rsa.token_with(&pss, &claims(&json!({})))), 200);
    // Of no name, and an audience among others.
    let header = json!({ "alg": "ES256", "typ": "JWT" });
    let several = claims(&json!({ "aud": ["other", "api"], "nbf": now() + 30 }));
    assert_eq!(scene.status(&ec.token_with(&header, &several)), 200);
    assert_eq!(scene.issuer.requests().iter().filter(|one| one.target() == "/keys").count(), 2);
}

/// RFC 6750, 3: what a client learns about why.
#[test]
fn answers_say_what_to_do() {
    let route = "auth = [\"login\"]\nscopes = [\"read\", \"write\"]\nlimits = \"none\"";
    let scene = Scene::start(route, "");
    let challenge = |token: Option<&str>| {
        let headers = token.map(|token| ("Authorization", format!("Bearer {token}")));
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let response = scene.site.get("/", &headers);
        (response.status, response.header("www-authenticate").unwrap_or_default().to_owned())
    };
    let token = |changes: Value| scene.rsa.token("rsa", &claims(&changes));
    eventually(SOON, "the keys", || challenge(Some(&token(json!({})))).0 == 403);
    assert_eq!(challenge(None), (401, "Bearer realm=\"api\"".to_owned()));
    let invalid = (401, "Bearer realm=\"api\", error=\"invalid_token\"".to_owned());
    assert_eq!(challenge(Some("nonsense")), invalid);
    assert_eq!(challenge(Some(&token(json!({ "exp": now() - 100 })))), invalid);
    let narrow = challenge(Some(&token(json!({ "scope": "read" }))));
    assert_eq!(narrow.0, 403);
    assert!(narrow.1.contains("error=\"insufficient_scope\", scope=\"read write\""), "{narrow:?}");
    assert_eq!(challenge(Some(&token(json!({ "scope": "write read" })))).0, 200);

    let good = format!("Bearer {}", token(json!({ "scope": "write read" })));
    for (target, headers) in [
        ("/?access_token=x", vec![("Authorization", good.as_str())]),
        ("/", vec![("Authorization", good.as_str()), ("Authorization", good.as_str())]),
        ("/", vec![("Authorization", good.as_str()), ("Authorization", "Basic eA==")]),
    ] {
        let response = scene.site.get(target, &headers);
        assert_eq!(response.status, 400, "{target} {headers:?}");
        let challenge = response.header("www-authenticate").unwrap_or_default().to_owned();
        assert!(challenge.contains("error=\"invalid_request\""), "{challenge}");
    }
    let query = format!("/?access_token={}", token(json!({ "scope": "write read" })));
    assert_eq!(scene.site.get(&query, &[]).status, 401, "never from the query");
    assert_eq!(scene.site.get("/", &[("Authorization", "Basic eA==")]).status, 401);
    let mixed = good.replacen("Bearer", "bEARER", 1);
    assert_eq!(scene.site.get("/", &[("Authorization", &mixed)]).status, 200);
}

/// An expired token is nobody's attempt, a wrong one is; and no token shows anywhere.
#[test]
fn what_is_told_of_tokens() {
    let scene = Scene::start(ROUTE, "");
    let good = scene.rsa.token("rsa", &claims(&json!({})));
    eventually(SOON, "the keys", || scene.status(&good) == 200);
    let expired = scene.rsa.token("rsa", &claims(&json!({ "exp": now() - 100 })));
    assert_eq!(scene.status(&expired), 401);
    scene.site.refused("unauthorized", 1);
    let forged = Signer::rsa().token("rsa", &claims(&json!({})));
    assert_eq!(get(&scene.site, &forged).status, 401);
    scene.site.refused("invalid_credential", 1);
    scene.site.limiter.event("Invalid credential from 127.0.0.1");
    let told = scene.site.limiter.events().join("\n") + &scene.site.limiter.stderr();
    for token in [&good, &expired, &forged] {
        let signature = token.rsplit('.').next().unwrap();
        assert!(!told.contains(token.as_str()) && !told.contains(signature));
    }
}

#[test]
fn several_issuers_and_other_schemes_beside_them() {
    let mut scene = Scene::prepare(ROUTE, "");
    let (one, two) = (Signer::p256(), Signer::ed25519());
    scene.site.limiter.scratch().write("one.pem", one.pem());
    scene.site.limiter.scratch().write("two.pem", two.pem());
    let route = "auth = [\"one\", \"two\", \"keys\"]\nlimits = \"none\"";
    let of = |name: &str| {
        format!(
            "[auth.{name}]\nkind = \"jwt\"\nissuer = \"https://{name}.test\"\naudience = \"api\"\n\
             public_key = \"{name}.pem\"\n"
        )
    };
    let sections = format!(
        "{}{}hide_credentials = true\n[auth.keys]\nkind = \"api_key\"\nkeys_file = \"keys.toml\"\n\
         {NO_BANS}",
        of("one"),
        of("two")
    );
    let configuration = configuration(&scene.site.origin, "", route, &sections);
    scene.site.limiter.configure(&configuration);
    scene.site.limiter.restart();
    let made = scene.site.limiter.with_file(&["keys", "new", "--name", "alice"]).succeeded();
    let key = made.stdout.trim().to_owned();
    let token =
        |signer: &Signer, issuer: &str| signer.token("any", &claims(&json!({ "iss": issuer })));
    for (signer, issuer, scheme) in
        [(&one, "https://one.test", "one"), (&two, "https://two.test", "two")]
    {
        assert_eq!(scene.status(&token(signer, issuer)), 200);
        let upstream = scene.site.origin.take_one(SOON);
        assert_eq!(upstream.header("x-auth-scheme").as_deref(), Some(scheme));
        assert_eq!(upstream.header("authorization"), None, "of each scheme that hides it");
    }
    assert_eq!(scene.status(&token(&one, "https://two.test")), 401, "with the other's key");
    assert_eq!(scene.status(&token(&two, "https://one.test")), 401);
    assert_eq!(scene.status(&token(&one, "https://three.test")), 401);
    eventually(SOON, "the key", || scene.status(&key) == 200);
    // The same name by two schemes is two principals.
    let bearer = format!("Bearer {}", token(&one, "https://one.test"));
    let both = [("Authorization", bearer.as_str()), ("X-API-Key", key.as_str())];
    assert_eq!(scene.site.get("/", &both).status, 400);
    let beside = [("Authorization", bearer.as_str()), ("X-API-Key", "lk_wrong")];
    assert_eq!(scene.site.get("/", &beside).status, 401);
    let past = claims(&json!({ "iss": "https://one.test", "exp": 1 }));
    let expired = format!("Bearer {}", one.token("any", &past));
    let beside = [("Authorization", expired.as_str()), ("X-API-Key", key.as_str())];
    let refused = scene.site.get("/", &beside);
    let challenge = refused.header("www-authenticate").unwrap_or_default();
    assert!(refused.status == 401 && challenge.contains("invalid_token"), "{refused:?}");
    let wrong = [("Authorization", "Bearer a.b.c"), ("X-API-Key", key.as_str())];
    assert_eq!(scene.site.get("/", &wrong).status, 401, "an invalid one beside a valid one");
}

/// Beyond the budget of an address no signature of a stranger's is looked at; tokens that are known
/// are served, and so is whoever comes from where others proved who they are.
#[test]
fn the_guard_stands_before_signatures() {
    let scene = Scene::start(ROUTE, "");
    let from = |source: &str, token: &str| {
        let bearer = format!("Bearer {token}");
        let request = http::request("GET", "/", &[("Authorization", &bearer)], b"");
        scene.site.send_from(source, &request)
    };
    let token = |jti: &str| scene.rsa.token("rsa", &claims(&json!({ "jti": jti })));
    let known = token("known");
    eventually(SOON, "the keys", || from("127.0.0.2", &known).status == 200);
    let forger = Signer::rsa();
    for source in ["127.0.0.2", "127.0.0.3"] {
        let guarded = (0..200).find(|number| {
            let wrong = forger.token("rsa", &claims(&json!({ "jti": number.to_string() })));
            from(source, &wrong).status == 429
        });
        assert!(guarded.is_some(), "{source} may guess for ever");
    }
    let refused = from("127.0.0.3", &token("fresh"));
    assert_eq!(refused.status, 429, "not looked at");
    assert!(refused.header("retry-after").is_some());
    assert_eq!(from("127.0.0.3", &known).status, 200, "known, and served");
    assert_eq!(from("127.0.0.2", &token("fresh")).status, 200, "from where somebody is known");
    assert_eq!(from("127.0.0.3", &token("fresh")).status, 200, "known by now");
}
