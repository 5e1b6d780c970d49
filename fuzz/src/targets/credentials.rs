//! Tokens, certificates and the files that hold credentials.

use std::sync::{Arc, LazyLock};

use apiserver::authn::bearer::{BearerTokens, TokenStep};
use apiserver::authn::bootstrap_token::BootstrapTokens;
use apiserver::authn::certificate::{CertificateVerifier, common_name};
use apiserver::authn::front_proxy;
use apiserver::authn::oidc::{self, AuthenticationFile};
use apiserver::authn::service_account::ServiceAccountTokens;
use apiserver::authn::static_token::StaticTokens;
use apiserver::tokens::keys::{signing_key, verifying_keys};
use serde_json::{Value, json};

use super::texts;
use crate::cluster::{Nothing, WORLD};

const ISSUER: &str = "https://issuer";

/// A self-signed certificate with its key.
static MADE: LazyLock<rcgen::CertifiedKey<rcgen::KeyPair>> =
    LazyLock::new(|| rcgen::generate_simple_self_signed(["a".to_owned()]).expect("a certificate"));

/// What checks bearer tokens, as the server wires it, without an OIDC provider to ask.
static TOKENS: LazyLock<BearerTokens> = LazyLock::new(|| {
    let keys = verifying_keys("fuzz", MADE.signing_key.serialize_pem().as_bytes()).expect("a key");
    let cluster = Arc::new(Nothing);
    let accounts = ServiceAccountTokens {
        issuers: vec![ISSUER.into()],
        keys,
        audiences: vec!["api".into()],
        cluster: cluster.clone(),
    };
    let fixed = StaticTokens::parse("t,u,1,\"g\"\n").expect("a token");
    let steps: Vec<Box<dyn TokenStep>> =
        vec![Box::new(fixed), Box::new(accounts), Box::new(BootstrapTokens { cluster })];
    BearerTokens::new(steps)
});

fn signed(claims: &Value) -> String {
    let key = signing_key("fuzz", MADE.signing_key.serialize_pem().as_bytes()).expect("a key");
    let header = jsonwebtoken::Header {
        kid: Some(key.public.id.clone()),
        ..jsonwebtoken::Header::new(key.public.algorithm)
    };
    jsonwebtoken::encode(&header, claims, &key.encoding).expect("a token")
}

pub fn token_examples() -> Vec<Vec<u8>> {
    let account = json!({"iss": ISSUER, "aud": ["api"], "exp": 4_000_000_000_i64, "iat": 1, "nbf": 1, "sub": "system:serviceaccount:a:b",
        "kubernetes.io": {"namespace": "a", "serviceaccount": {"name": "b", "uid": "u"}, "pod": {"name": "p", "uid": "v"}}});
    let odd = json!({"iss": ISSUER, "aud": "api", "exp": i64::MIN, "iat": i64::MAX, "nbf": i64::MAX});
    let mut all = texts(&["t", "abcdef.0123456789abcdef", "..", "e30.e30.e30"]);
    all.extend([account, odd].iter().map(|claims| signed(claims).into_bytes()));
    all
}

/// A bearer token, forged or not; the claims of one that passed the signature are read in [`claims`] too.
pub fn tokens(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = WORLD.runtime.block_on(TOKENS.check(&text, &[]));
    if let Ok(Value::Object(found)) = serde_json::from_str(&text) {
        claims(&found);
        let _ = WORLD.runtime.block_on(TOKENS.check(&signed(&Value::Object(found)), &["other".to_owned()]));
    }
}

fn claims(found: &serde_json::Map<String, Value>) {
    let file = AuthenticationFile::parse(AUTHENTICATION).expect("the example");
    for issuer in &file.issuers {
        let _ = oidc::claims::user(issuer, found, jiff::Timestamp::UNIX_EPOCH);
    }
}

const AUTHENTICATION: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer: {url: https://i, audiences: [a]}\n  claimMappings: {username: {claim: sub, prefix: \"\"}, groups: {claim: g, prefix: \"x:\"}}\n  claimValidationRules: [{claim: c, requiredValue: d}]\n";

pub fn file_examples() -> Vec<Vec<u8>> {
    let mut all = texts(&[
        "token,user,uid,\"a,b\"\n",
        AUTHENTICATION,
        r#"{"sub":"a","exp":1,"aud":["a"],"g":["b",1],"c":"d"}"#,
    ]);
    all.push(MADE.cert.pem().into_bytes());
    all.push(MADE.signing_key.serialize_pem().into_bytes());
    all
}

/// Files an operator gives: key files, certificates, static tokens, AuthenticationConfiguration.
pub fn files(bytes: &[u8]) {
    let _ = verifying_keys("fuzz", bytes);
    let _ = signing_key("fuzz", bytes);
    let _ = CertificateVerifier::from_pem("fuzz", bytes);
    let text = String::from_utf8_lossy(bytes);
    let _ = StaticTokens::parse(&text);
    let _ = AuthenticationFile::parse(&text);
    let _ = front_proxy::unescape(&text);
}

pub fn certificate_examples() -> Vec<Vec<u8>> {
    vec![MADE.cert.der().to_vec()]
}

/// A client's certificate, DER.
pub fn certificates(bytes: &[u8]) {
    static VERIFIER: LazyLock<CertificateVerifier> = LazyLock::new(|| {
        CertificateVerifier::from_pem("fuzz", MADE.cert.pem().as_bytes()).expect("an authority")
    });
    common_name(bytes);
    let _ = VERIFIER.verify(&[bytes.to_vec()]);
    let _ = VERIFIER.verify(&[MADE.cert.der().to_vec(), bytes.to_vec()]);
}
