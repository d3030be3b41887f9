//! An issuer that changes its keys, stalls, lies and is gone: whoever has a good token is served
//! all the while, and whoever has none does not make the limiter ask.

use std::{fmt::Write as _, thread, time::Duration};

use limiter_tests::{
    origin::Behaviour,
    tokens::{Signer, key_set},
    wait::eventually,
};
use limiter_user::clock;
use serde_json::json;

use super::{ROUTE, Scene, claims, document};
use crate::support::{SOON, configuration};

/// Longer than what lies between two questions.
const PATIENCE: Duration = Duration::from_secs(15);

fn elapsed(begin_ns: u64) -> Duration {
    Duration::from_nanos(clock::monotonic_ns() - begin_ns)
}

fn questions(scene: &Scene) -> usize {
    scene.issuer.requests().iter().filter(|one| one.target() == "/keys").count()
}

#[test]
fn keys_change_while_tokens_are_in_use() {
    let scene = Scene::start(ROUTE, "");
    let old = scene.rsa.token("rsa", &claims(&json!({})));
    eventually(SOON, "the keys", || scene.status(&old) == 200);
    // A new key beside the old: the first token with it makes the limiter ask.
    let next = Signer::p256();
    scene.publish(&[scene.rsa.jwk("rsa"), next.jwk("next")]);
    let new = next.token("next", &claims(&json!({})));
    eventually(PATIENCE, "the new key", || scene.status(&new) == 200);
    assert_eq!(scene.status(&old), 200);
    assert_eq!(questions(&scene), 2);
    // The old one goes: what it signed is over, though it was seen before.
    scene.publish(&[next.jwk("next")]);
    let third = Signer::p256().token("third", &claims(&json!({})));
    eventually(PATIENCE, "the old key is gone", || {
        scene.status(&third);
        scene.status(&old) == 401
    });
    assert_eq!(scene.status(&new), 200);
    // The name stays and the key is another.
    let stolen = next.token("next", &claims(&json!({ "jti": "a" })));
    scene.publish(&[Signer::p256().jwk("next"), Signer::p256().jwk("fourth")]);
    let fourth = Signer::p256().token("fourth", &claims(&json!({})));
    eventually(PATIENCE, "the key of that name is another", || {
        scene.status(&fourth);
        scene.status(&stolen) == 401
    });
    assert_eq!(scene.status(&new), 401);
}

/// One issuer for each lie, and all lie at once.
#[test]
fn issuers_that_lie_change_nothing() {
    let mut scene = Scene::prepare(ROUTE, "");
    let key = scene.rsa.jwk("rsa");
    let weak = json!({ "kty": "RSA", "kid": "x", "n": "AQAB", "e": "AQAB" });
    let elsewhere = ("Location".to_owned(), format!("{}/other", scene.issuer.url()));
    let lies = [
        document("<html>maintenance</html>"),
        document(""),
        document(&key_set(&[])),
        document("{}"),
        document("{\"keys\":{}}"),
        document(&format!("{{\"keys\":[{key}],\"keys\":[]}}")),
        document(&key_set(&[weak, Signer::Secret(vec![1; 32]).jwk("rsa")])),
        document(&key_set(&vec![Signer::p256().jwk("many"); 101])),
        document(&format!("{{\"keys\":[{key}],\"x\":\"{}\"}}", "x".repeat(300_000))),
        Behaviour::CloseMidBody(4000, key.to_string().into_bytes()),
        Behaviour::Answer(302, vec![elsewhere], Vec::new()),
        Behaviour::Answer(
            200,
            vec![("Content-Encoding".to_owned(), "gzip".to_owned())],
            key_set(&[Signer::rsa().jwk("rsa")]).into_bytes(),
        ),
        Behaviour::status(500),
        Behaviour::status(204),
        Behaviour::Reset,
        Behaviour::RawThenClose(b"nonsense".to_vec()),
    ];
    scene.issuer.on("/other", document(&key_set(&[Signer::rsa().jwk("rsa")])));
    let mut names = Vec::new();
    let mut sections = super::NO_BANS.to_owned();
    for number in 0..lies.len() {
        scene.issuer.on(&format!("/{number}"), document(&key_set(std::slice::from_ref(&key))));
        names.push(format!("liar-{number}"));
        write!(
            sections,
            "[auth.liar-{number}]\nkind = \"jwt\"\nissuer = \"https://{number}.test\"\n\
             audience = \"api\"\njwks_url = \"{}/{number}\"\n",
            scene.issuer.url()
        )
        .unwrap();
    }
    let route = format!("auth = {names:?}\nlimits = \"none\"");
    scene.site.limiter.configure(&configuration(&scene.site.origin, "", &route, &sections));
    scene.site.limiter.restart();
    let of = |number: usize, jti: &str| {
        claims(&json!({ "iss": format!("https://{number}.test"), "jti": jti }))
    };
    let good = |number: usize, jti: &str| scene.rsa.token("rsa", &of(number, jti));
    let asked = |number: usize| {
        let path = format!("/{number}");
        scene.issuer.requests().iter().filter(|one| one.target() == path).count()
    };
    for number in 0..lies.len() {
        eventually(SOON, "the keys", || scene.status(&good(number, "first")) == 200);
    }
    for (number, lie) in lies.iter().enumerate() {
        scene.issuer.on(&format!("/{number}"), lie.clone());
    }
    let forger = Signer::p256();
    for number in 0..lies.len() {
        // A token with another key makes the limiter ask.
        let unknown = forger.token("unknown", &of(number, "forged"));
        eventually(PATIENCE, "the lie", || scene.status(&unknown) == 401 && asked(number) > 1);
    }
    for (number, lie) in lies.iter().enumerate() {
        assert_eq!(scene.status(&good(number, "second")), 200, "after {lie:?}");
    }
    assert!(!scene.issuer.requests().iter().any(|one| one.target() == "/other"));
    let events = scene.site.limiter.events().join("\n");
    for why in ["status 500", "status 302", "no keys: no array `keys`", "more than 262144 bytes"] {
        assert!(events.contains(why), "{why}: {events}");
    }
}

#[test]
fn an_issuer_that_stalls_holds_up_only_who_needs_it() {
    let scene = Scene::start(ROUTE, "");
    let good = |name: &str| scene.rsa.token("rsa", &claims(&json!({ "jti": name })));
    eventually(SOON, "the keys", || scene.status(&good("first")) == 200);
    let before = questions(&scene);
    scene.issuer.on("/keys", Behaviour::Stall);
    let unknown = Signer::p256().token("unknown", &claims(&json!({})));
    eventually(PATIENCE, "a question", || {
        let begin_ns = clock::monotonic_ns();
        assert_eq!(scene.status(&unknown), 401);
        assert!(elapsed(begin_ns) < Duration::from_secs(4), "nobody waits that long");
        questions(&scene) > before
    });
    let begin_ns = clock::monotonic_ns();
    assert_eq!(scene.status(&good("second")), 200);
    assert!(elapsed(begin_ns) < Duration::from_secs(1));
}

/// Tokens with made-up keys are answered at once and cause hardly a question.
#[test]
fn made_up_keys_do_not_make_it_ask() {
    let scene = Scene::start(ROUTE, "");
    let good = scene.rsa.token("rsa", &claims(&json!({})));
    eventually(SOON, "the keys", || scene.status(&good) == 200);
    let forger = Signer::p256();
    let begin_ns = clock::monotonic_ns();
    for number in 0..100 {
        let token = forger.token(&format!("made-up-{number}"), &claims(&json!({})));
        let bearer = format!("Bearer {token}");
        let request = limiter_tests::http::request("GET", "/", &[("Authorization", &bearer)], b"");
        let response = scene.site.send_from(&format!("127.8.0.{}", number + 1), &request);
        assert_eq!(response.status, 401);
    }
    let most = 2 + usize::try_from(elapsed(begin_ns).as_secs() / 5).unwrap();
    assert!(
        questions(&scene) <= most,
        "{} questions in {:?}",
        questions(&scene),
        elapsed(begin_ns)
    );
}

/// Many at once cause one question, and all of them have its answer. Who came while it was being
/// answered may have it asked again, once for all.
#[test]
fn many_at_once_cause_one_question() {
    let scene = Scene::start(ROUTE, "");
    let good = scene.rsa.token("rsa", &claims(&json!({})));
    eventually(SOON, "the keys", || scene.status(&good) == 200);
    // Until a token may cause a question again.
    let pause = Duration::from_millis(5500);
    thread::sleep(pause);
    let before = questions(&scene);
    let (next, forger) = (Signer::p256(), Signer::p256());
    let set = document(&key_set(&[scene.rsa.jwk("rsa"), next.jwk("next")]));
    let late = Behaviour::Delayed(Duration::from_millis(700), Box::new(set));
    scene.issuer.on("/keys", late);
    let unknown: Vec<String> = (0..30)
        .map(|number| forger.token(&format!("unknown-{number}"), &claims(&json!({}))))
        .collect();
    let new = next.token("next", &claims(&json!({})));
    let asked = unknown.iter().map(|token| (token, 401)).chain([(&new, 200); 10]);
    thread::scope(|scope| {
        let scene = &scene;
        for (token, expected) in asked {
            scope.spawn(move || assert_eq!(scene.status(token), expected));
        }
    });
    assert_eq!(questions(&scene), before + 1);
    thread::sleep(pause);
    for token in &unknown {
        assert_eq!(scene.status(token), 401);
    }
    let asked_again = questions(&scene);
    assert!(asked_again <= before + 2, "{asked_again} after {before}");
    thread::sleep(pause);
    assert_eq!(scene.status(&unknown[0]), 401);
    assert_eq!(questions(&scene), asked_again, "its name is known to be nobody's");
}

/// Who asks while an older question is being answered is not told no for long.
#[test]
fn a_key_that_is_published_while_the_issuer_is_asked() {
    let scene = Scene::start(ROUTE, "");
    let good = scene.rsa.token("rsa", &claims(&json!({})));
    eventually(SOON, "the keys", || scene.status(&good) == 200);
    thread::sleep(Duration::from_millis(5500));
    let before = questions(&scene);
    let old = document(&key_set(&[scene.rsa.jwk("rsa")]));
    scene.issuer.on("/keys", Behaviour::Delayed(Duration::from_secs(1), Box::new(old)));
    let (next, forger) = (Signer::p256(), Signer::p256());
    let new = next.token("next", &claims(&json!({})));
    thread::scope(|scope| {
        let unknown = forger.token("unknown", &claims(&json!({})));
        let scene = &scene;
        scope.spawn(move || assert_eq!(scene.status(&unknown), 401));
        eventually(SOON, "a question", || questions(scene) == before + 1);
        assert_eq!(scene.status(&new), 401, "that answer does not have it");
    });
    scene.publish(&[scene.rsa.jwk("rsa"), next.jwk("next")]);
    eventually(PATIENCE, "the new key", || scene.status(&new) == 200);
}

/// Drop by drop is no answer in time; meanwhile, and after it, there is the set that was known.
#[test]
fn an_issuer_that_drips_is_given_up() {
    let scene = Scene::start(ROUTE, "");
    let good = |name: &str| scene.rsa.token("rsa", &claims(&json!({ "jti": name })));
    eventually(SOON, "the keys", || scene.status(&good("first")) == 200);
    let next = Signer::p256();
    let set = key_set(&[scene.rsa.jwk("rsa"), next.jwk("next")]);
    let drops = set.bytes().map(|byte| vec![byte]).collect();
    scene.issuer.on("/keys", Behaviour::Chunked(drops, Duration::from_millis(150)));
    let before = questions(&scene);
    let new = next.token("next", &claims(&json!({})));
    eventually(PATIENCE, "a question", || {
        assert_eq!(scene.status(&new), 401);
        questions(&scene) > before
    });
    let begin_ns = clock::monotonic_ns();
    for turn in 0..5 {
        assert_eq!(scene.status(&good(&turn.to_string())), 200);
    }
    assert!(elapsed(begin_ns) < Duration::from_secs(1));
    scene.issuer.on("/keys", document(&set));
    eventually(PATIENCE * 2, "the new key", || {
        assert_eq!(scene.status(&good("after")), 200);
        scene.status(&new) == 200
    });
    let waited = elapsed(begin_ns);
    assert!(waited < Duration::from_secs(20), "the drops went on for {waited:?}");
}

/// Several keys under one name, as while keys change: each counts, for its own algorithm only.
#[test]
fn keys_that_share_a_name() {
    let more = "algorithms = [\"RS256\", \"ES256\", \"EdDSA\"]";
    let mut scene = Scene::prepare(ROUTE, more);
    let (other, ec, ed) = (Signer::rsa(), Signer::p256(), Signer::ed25519());
    let keys = [&scene.rsa, &other, &ec, &ed].map(|signer| signer.jwk("same"));
    scene.publish(&keys);
    scene.site.limiter.restart();
    let token = |signer: &Signer| signer.token("same", &claims(&json!({})));
    eventually(SOON, "the keys", || scene.status(&token(&scene.rsa)) == 200);
    for signer in [&other, &ec, &ed] {
        assert_eq!(scene.status(&token(signer)), 200);
    }
    for (signer, algorithm) in [(&ec, "RS256"), (&scene.rsa, "ES256"), (&ed, "ES256")] {
        let header = json!({ "alg": algorithm, "kid": "same" });
        let confused = signer.token_with(&header, &claims(&json!({})));
        assert_eq!(scene.status(&confused), 401, "{algorithm}");
    }
    assert_eq!(scene.status(&Signer::rsa().token("same", &claims(&json!({})))), 401);
}

/// Its clock may be off by the tolerance; by more, its tokens do not count yet, and nobody is to
/// blame.
#[test]
fn an_issuer_whose_clock_is_off() {
    let scene = Scene::start(ROUTE, "tolerance = \"30s\"");
    let issued = |at: u64| {
        let times = json!({ "iat": at, "nbf": at, "exp": at + 60, "jti": at.to_string() });
        super::get(&scene.site, &scene.rsa.token("rsa", &claims(&times))).status
    };
    let now = super::now();
    eventually(SOON, "the keys", || issued(now) == 200);
    assert_eq!([issued(now + 20), issued(now - 80)], [200, 200]);
    assert_eq!([issued(now + 50), issued(now + 3600), issued(now - 100)], [401, 401, 401]);
    scene.site.refused("unauthorized", 3);
    scene.site.refused("invalid_credential", 0);
}

#[test]
fn before_its_keys_were_ever_seen_nobody_can_say_who_it_is() {
    let mut scene = Scene::prepare(ROUTE, "");
    scene.issuer.on("/keys", Behaviour::status(503));
    scene.site.limiter.restart();
    let good = scene.rsa.token("rsa", &claims(&json!({})));
    let response = super::get(&scene.site, &good);
    assert_eq!(response.status, 502, "not the client's fault");
    assert!(response.header("retry-after").is_some());
    assert_eq!(scene.site.get("/", &[]).status, 401);
    assert_eq!(scene.site.origin.count(), 0);
    scene.publish(&[scene.rsa.jwk("rsa")]);
    eventually(PATIENCE, "the issuer is back", || scene.status(&good) == 200);
}

/// A reload that leaves the issuer alone keeps its keys, and tokens that were verified.
#[test]
fn a_reload_keeps_keys_and_tokens() {
    let scene = Scene::start(ROUTE, "");
    let good = scene.rsa.token("rsa", &claims(&json!({})));
    eventually(SOON, "the keys", || scene.status(&good) == 200);
    scene.issuer.on("/keys", Behaviour::Reset);
    scene.site.limiter.cli(&["reload"]).succeeded();
    assert_eq!(scene.status(&good), 200);
    assert_eq!(questions(&scene), 1);
    // Other rules hold for tokens that were seen before, too.
    let url = format!("jwks_url = \"{}/keys\"\n", scene.issuer.url());
    let section = super::section(&url).replace("audience = \"api\"", "audience = \"else\"");
    scene.site.reload("", ROUTE, &section);
    assert_eq!(scene.status(&good), 401);
}
