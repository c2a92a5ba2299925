//! Signed tokens, made with real keys by an issuer on this machine: who gets in, who does not, and for how long. Time is
//! turned by hand, keys are fetched over a real connection.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RsaKeyPair};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use harness::built;
use harness::client::{Client, Reply};
use harness::process::{Process, appears};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use penstock_policy::classes::Class;
use penstock_policy::gcra::Limit;
use penstock_policy::id::{PoolId, TenantId};
use penstock_policy::time::Timestamp;
use penstock_service::Service;
use penstock_service::config::Timing;
use penstock_service::ports::{Clock, Control, Pool, Tenant, TenantLimits};
use penstock_service::system::{OsEntropy, TaskSpawner};
use penstock_service::tokens::TrustedIssuers;
use penstock_service::tokens::issuer::IssuerConfig;
use penstock_sqlite::{DiskBlobs, Sqlite};
use serde_json::{Value, json};

const BEGIN: i64 = 1_800_000_000;

/// A key that signs, and its public half.
struct Key {
    id: &'static str,
    algorithm: Algorithm,
    signs: EncodingKey,
    published: Value,
}

impl Key {
    fn rsa(id: &'static str) -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let whole: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        // PKCS #8 wraps the key itself, which is what the library signs with, into 26 bytes of its own.
        Self::of(id, Algorithm::RS256, EncodingKey::from_rsa_der(&whole.as_ref()[26..]))
    }

    fn elliptic(id: &'static str) -> Self {
        let pair = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        Self::of(id, Algorithm::ES256, EncodingKey::from_ec_der(pair.as_ref()))
    }

    fn of(id: &'static str, algorithm: Algorithm, signs: EncodingKey) -> Self {
        let mut published = serde_json::to_value(Jwk::from_encoding_key(&signs, algorithm).unwrap()).unwrap();
        published["kid"] = json!(id);
        Self { id, algorithm, signs, published }
    }

    fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.id.to_owned()), ..Header::new(self.algorithm) };
        jsonwebtoken::encode(&header, claims, &self.signs).unwrap()
    }
}

/// Publishes keys, counts how often they are fetched, and may be down.
#[derive(Clone)]
struct Publisher {
    keys: Arc<Mutex<Option<Vec<Value>>>>,
    fetches: Arc<AtomicU32>,
    url: String,
}

impl Publisher {
    async fn start(keys: &[&Key]) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let publisher = Self { keys: Arc::default(), fetches: Arc::default(), url };
        publisher.publish(keys);
        let router = Router::new().route("/keys", get(Self::answer)).with_state(publisher.clone());
        tokio::spawn(axum::serve(listener, router).into_future());
        publisher
    }

    async fn answer(State(publisher): State<Self>) -> Result<String, StatusCode> {
        publisher.fetches.fetch_add(1, Ordering::SeqCst);
        let keys = publisher.keys.lock().unwrap().clone();
        keys.map(|keys| json!({"keys": keys}).to_string()).ok_or(StatusCode::BAD_GATEWAY)
    }

    fn publish(&self, keys: &[&Key]) {
        *self.keys.lock().unwrap() = Some(keys.iter().map(|key| key.published.clone()).collect());
    }

    fn go_down(&self) {
        *self.keys.lock().unwrap() = None;
    }

    fn fetches(&self) -> u32 {
        self.fetches.load(Ordering::SeqCst)
    }

    fn issuer(&self, more: Value) -> Value {
        let mut issuer = json!({"issuer": "https://id.example", "audience": "penstock", "jwks_url": self.url,
            "reach": "loopback", "algorithms": ["RS256", "ES256"]});
        issuer.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        issuer
    }
}

struct Turned(AtomicI64);

#[async_trait]
impl Clock for Turned {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }

    async fn sleep_until(&self, _: Timestamp) {
        std::future::pending().await
    }
}

/// A front door in this process, whose time is turned by hand.
struct Front {
    clock: Arc<Turned>,
    sqlite: Sqlite,
    url: String,
    _blobs: tempfile::TempDir,
}

impl Front {
    async fn of(issuer: Value) -> Self {
        let clock = Arc::new(Turned(AtomicI64::new(BEGIN * 1000)));
        let sqlite = Sqlite::in_memory(Arc::clone(&clock) as _).unwrap();
        let wide = Limit::per_minute(1_000_000).unwrap();
        for id in ["acme", "other"] {
            let limits = TenantLimits::rates(wide, wide);
            sqlite.put_tenant(&Tenant::new(TenantId::new(id).unwrap(), Class::P1, limits, clock.now())).await.unwrap();
        }
        let blobs = tempfile::tempdir().unwrap();
        let ports = sqlite.ports(DiskBlobs::new(blobs.path()), Arc::new(TaskSpawner), Arc::new(OsEntropy));
        let configs = IssuerConfig::list(&json!([issuer]).to_string()).unwrap();
        let service = Service::new(ports, Timing::default(), b"test");
        let service = Arc::new(service.with_tokens(TrustedIssuers::over_http(configs).unwrap()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(axum::serve(listener, penstock_service::router(service)).into_future());
        Self { clock, sqlite, url, _blobs: blobs }
    }

    fn turn(&self, secs: u64) {
        self.clock.0.fetch_add(i64::try_from(secs).unwrap() * 1000, Ordering::SeqCst);
    }

    async fn enter(&self, token: &str) -> Reply {
        Client::new(&self.url, token).send("GET", "/v1/models").await
    }

    /// What is said to a token that does not get in.
    async fn refuses(&self, token: &str) -> String {
        let reply = self.enter(token).await;
        assert_eq!((reply.status, &reply.json()["error"]["code"]), (401, &json!("invalid_token")), "{}", reply.body);
        reply.json()["error"]["message"].as_str().unwrap().to_owned()
    }

    async fn lets_in(&self, token: &str) {
        let reply = self.enter(token).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
    }
}

fn claims(more: Value) -> Value {
    let mut claims = json!({"iss": "https://id.example", "aud": ["elsewhere", "penstock"], "sub": "somebody",
        "iat": BEGIN, "exp": BEGIN + 3600, "tenant": "acme"});
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    claims
}

#[tokio::test]
async fn tokens_of_both_kinds_of_key_get_in_until_they_expire() {
    let (rsa, elliptic) = (Key::rsa("r"), Key::elliptic("e"));
    let publisher = Publisher::start(&[&rsa, &elliptic]).await;
    let front = Front::of(publisher.issuer(json!({}))).await;
    for key in [&rsa, &elliptic] {
        front.lets_in(&key.sign(&claims(json!({})))).await;
    }
    assert_eq!(publisher.fetches(), 1, "keys are remembered");
    front.turn(3600 + 29);
    front.lets_in(&rsa.sign(&claims(json!({})))).await;
    front.turn(1);
    assert!(front.refuses(&rsa.sign(&claims(json!({})))).await.contains("expired"));
}

#[tokio::test]
async fn a_token_for_somebody_else_or_without_an_end_does_not_get_in() {
    let key = Key::rsa("r");
    let publisher = Publisher::start(&[&key]).await;
    let front = Front::of(publisher.issuer(json!({}))).await;
    for (more, word) in [
        (json!({"aud": "elsewhere"}), "'aud'"),
        (json!({"aud": null}), "read"),
        (json!({"exp": null}), "'exp'"),
        (json!({"exp": BEGIN - 31}), "expired"),
        (json!({"nbf": BEGIN + 31}), "not valid yet"),
        (json!({"iss": "https://id.example/"}), "issuer"),
        (json!({"tenant": "nobody"}), "tenant"),
        (json!({"tenant": 7}), "'tenant'"),
        (json!({"tenant": "penstock:prepared"}), "tenant"),
    ] {
        let said = front.refuses(&key.sign(&claims(more.clone()))).await;
        assert!(said.contains(word), "{more}: {said}");
    }
}

#[tokio::test]
async fn nobody_signs_without_the_private_key_whatever_the_header_says() {
    let (key, stranger) = (Key::rsa("r"), Key::rsa("r"));
    let publisher = Publisher::start(&[&key]).await;
    let front = Front::of(publisher.issuer(json!({}))).await;
    let good = key.sign(&claims(json!({})));
    let (message, signature) = good.rsplit_once('.').unwrap();
    let payload = message.split_once('.').unwrap().1;
    let header = |header: Value| BASE64.encode(header.to_string());

    assert!(front.refuses(&stranger.sign(&claims(json!({})))).await.contains("signature"));
    // Another payload under a good signature.
    let other = BASE64.encode(claims(json!({"tenant": "other"})).to_string());
    let swapped = format!("{}.{other}.{signature}", message.split_once('.').unwrap().0);
    assert!(front.refuses(&swapped).await.contains("signature"));
    // No signature at all.
    for none in ["none", "None", "nOnE"] {
        let unsigned = format!("{}.{payload}.{signature}", header(json!({"alg": none, "kid": "r"})));
        front.refuses(&unsigned).await;
        let reply = front.enter(&format!("{}.{payload}.", header(json!({"alg": none})))).await;
        assert_eq!(reply.status, 401, "{}", reply.body);
    }
    // The public key, which everybody has, taken for a shared secret.
    let public = key.published["n"].as_str().unwrap();
    for secret in [BASE64.decode(public).unwrap(), public.as_bytes().to_vec(), key.published.to_string().into_bytes()] {
        let hmac = Header { kid: Some("r".to_owned()), ..Header::new(Algorithm::HS256) };
        let forged = jsonwebtoken::encode(&hmac, &claims(json!({})), &EncodingKey::from_secret(&secret)).unwrap();
        assert!(front.refuses(&forged).await.contains("not accepted of its issuer"));
    }
    // Keys that the token brings along or points to are not looked at.
    let mut brought = Header { kid: Some("mine".to_owned()), ..Header::new(Algorithm::RS256) };
    brought.jwk = serde_json::from_value(stranger.published.clone()).ok();
    brought.jku = Some(format!("{}/mine", publisher.url));
    let forged = jsonwebtoken::encode(&brought, &claims(json!({})), &stranger.signs).unwrap();
    assert!(front.refuses(&forged).await.contains("none of its issuer's"));
    // The wheel is still round.
    front.lets_in(&good).await;
}

#[tokio::test]
async fn an_algorithm_that_is_not_listed_is_refused_although_the_key_is_good() {
    let key = Key::rsa("r");
    let publisher = Publisher::start(&[&key]).await;
    let front = Front::of(publisher.issuer(json!({"algorithms": ["ES256"]}))).await;
    assert!(front.refuses(&key.sign(&claims(json!({})))).await.contains("not accepted of its issuer"));
    assert_eq!(publisher.fetches(), 0, "nothing is fetched for it");
}

#[tokio::test]
async fn a_new_key_is_found_within_half_a_minute_and_an_old_one_goes_within_ten() {
    let (old, new) = (Key::elliptic("old"), Key::elliptic("new"));
    let publisher = Publisher::start(&[&old]).await;
    let front = Front::of(publisher.issuer(json!({}))).await;
    let (by_old, by_new) = (old.sign(&claims(json!({}))), new.sign(&claims(json!({}))));
    front.lets_in(&by_old).await;
    publisher.publish(&[&new]);
    assert!(front.refuses(&by_new).await.contains("none of its issuer's"), "it was fetched this instant");
    for _ in 0..100 {
        front.refuses(&by_new).await;
    }
    assert_eq!(publisher.fetches(), 1, "unknown keys cause no flood");
    front.lets_in(&by_old).await;
    front.turn(30);
    front.lets_in(&by_new).await;
    assert_eq!(publisher.fetches(), 2);
    assert!(front.refuses(&by_old).await.contains("none of its issuer's"), "it went when the new one was found");
    publisher.publish(&[]);
    front.turn(599);
    front.lets_in(&by_new).await;
    front.turn(1);
    front.refuses(&by_new).await;
}

#[tokio::test]
async fn an_issuer_that_is_down_is_trusted_for_an_hour_and_then_its_tokens_are_told_to_come_back() {
    let key = Key::elliptic("e");
    let publisher = Publisher::start(&[&key]).await;
    let front = Front::of(publisher.issuer(json!({}))).await;
    let token = key.sign(&claims(json!({"exp": BEGIN + 10 * 3600})));
    front.lets_in(&token).await;
    publisher.go_down();
    front.turn(3599);
    front.lets_in(&token).await;
    front.turn(31);
    let reply = front.enter(&token).await;
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (503, &json!("issuer_unavailable")), "{}", reply.body);
    assert_eq!(reply.header("retry-after"), "30");
    publisher.publish(&[&key]);
    front.turn(30);
    front.lets_in(&token).await;
}

#[tokio::test]
async fn a_tenant_that_revokes_its_tokens_is_obeyed_within_a_minute() {
    let key = Key::elliptic("e");
    let publisher = Publisher::start(&[&key]).await;
    let front = Front::of(publisher.issuer(json!({}))).await;
    let old = key.sign(&claims(json!({})));
    let of_other = key.sign(&claims(json!({"tenant": "other"})));
    front.lets_in(&old).await;
    front.turn(1);
    let id = TenantId::new("acme").unwrap();
    let tenant = front.sqlite.tenant(&id).await.unwrap().unwrap();
    let bound = Some(front.clock.now());
    front.sqlite.put_tenant(&Tenant { tokens_not_before: bound, ..tenant }).await.unwrap();
    front.turn(59);
    assert!(front.refuses(&old).await.contains("revoked"));
    assert!(front.refuses(&key.sign(&claims(json!({"iat": null})))).await.contains("'iat'"));
    front.lets_in(&key.sign(&claims(json!({"iat": BEGIN + 1})))).await;
    front.lets_in(&of_other).await;
}

#[tokio::test]
async fn a_token_speaks_for_the_tenants_of_its_issuer_alone_and_in_its_class_at_best() {
    let key = Key::elliptic("e");
    let publisher = Publisher::start(&[&key]).await;
    let more = json!({"tenant_claim": "org", "tenants": {"org-7": "acme"}, "class_claim": "plan", "class": "p2"});
    let front = Front::of(publisher.issuer(more)).await;
    let token = |more: Value| key.sign(&claims(more));
    front.lets_in(&token(json!({"org": "org-7", "plan": "p3"}))).await;
    let model = Pool::new(PoolId::new("default").unwrap(), "m", 4096, front.clock.now());
    front.sqlite.put_pool(&model).await.unwrap();
    front.turn(60);
    let url = format!("{}/v1/chat/completions", front.url);
    let wish = json!({"model": "m", "service_tier": "priority", "messages": [{"role": "user", "content": "first"}]});
    for (plan, tier) in [("p0", "flex"), ("p2", "flex"), ("p3", "batch")] {
        let request = reqwest::Client::new().post(&url).bearer_auth(token(json!({"org": "org-7", "plan": plan})));
        let reply = request.header("x-penstock-dry-run", "1").body(wish.to_string()).send().await.unwrap();
        let quote: Value = serde_json::from_str(&reply.text().await.unwrap()).unwrap();
        assert_eq!(quote["service_tier"], tier, "{plan}: {quote}");
    }
    assert!(front.refuses(&token(json!({"org": "other", "plan": "p3"}))).await.contains("'org'"));
    assert!(front.refuses(&token(json!({"org": "acme", "plan": "p3"}))).await.contains("'org'"));
    assert!(front.refuses(&token(json!({"org": "org-7", "plan": "gold"}))).await.contains("'plan'"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_this_machine_takes_tokens_and_its_operator_revokes_them() {
    let key = Key::rsa("r");
    let publisher = Publisher::start(&[&key]).await;
    let home = tempfile::tempdir().unwrap();
    let issuers = home.path().join("issuers.json");
    std::fs::write(&issuers, json!([publisher.issuer(json!({}))]).to_string()).unwrap();
    let command = |arguments: &[&str]| {
        let mut command = Command::new(built("penstock"));
        command.args(arguments).arg("--data").arg(home.path()).env("XDG_CACHE_HOME", home.path());
        command
    };
    let mut up = command(&["up", "--port", "0", "--workers", "0", "--issuers", issuers.to_str().unwrap()]);
    let server = Process::start(up.stdout(Stdio::null()));
    let ready: Value =
        serde_json::from_str(&appears(&home.path().join("ready.json"), Duration::from_secs(60))).unwrap();
    let url = ready["url"].as_str().unwrap();
    assert!(command(&["tenant", "add", "acme"]).output().unwrap().status.success());
    let now = penstock_service::system::SystemClock.now().as_secs();
    let token = key.sign(&claims(json!({"iat": now - 5, "exp": now + 600})));
    let enter = |token: String| async move { Client::new(url, &token).send("GET", "/v1/models").await };
    assert_eq!(enter(token.clone()).await.status, 200);
    let revoked = command(&["tenant", "revoke-tokens", "acme"]).output().unwrap();
    assert!(String::from_utf8_lossy(&revoked.stdout).contains("refused"), "{revoked:?}");
    let reply = enter(token).await;
    assert_eq!(reply.status, 401, "at once where it was revoked: {}", reply.body);
    let renewed = key.sign(&claims(json!({"iat": now + 2, "exp": now + 600})));
    assert_eq!(enter(renewed).await.status, 200);
    drop(server);
}
