//! What reads request lines, headers, options and files of strangers, fed with mutated examples: it may refuse, it must
//! not panic. The same entry points have fuzz targets in `fuzz/`; this run is short and always the same.

use apiserver::authn::certificate::{CertificateVerifier, common_name};
use apiserver::authn::oidc::AuthenticationFile;
use apiserver::authn::static_token::StaticTokens;
use apiserver::http::negotiate::{self, Offer};
use apiserver::http::request_info;
use apiserver::http::watch::WatchOptions;
use apiserver::registry::options::{DeleteOptions, Query, WriteOptions};
use apiserver::registry::read::ListOptions;
use apiserver::tokens::keys::{signing_key, verifying_keys};

/// Mutants of each example.
const MUTANTS: usize = 500;

/// Every example, and changed copies of it from a generator with a fixed start.
fn each_mutant(examples: &[&str], mut run: impl FnMut(&[u8])) {
    let mut state = 0x5eed_u64;
    let mut random = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap_or(0) % bound.max(1)
    };
    for example in examples {
        run(example.as_bytes());
        for _ in 0..MUTANTS {
            let mut bytes = example.as_bytes().to_vec();
            for _ in 0..=random(3) {
                let at = random(bytes.len() + 1);
                match random(4) {
                    0 if at < bytes.len() => bytes[at] ^= 1 << random(8),
                    1 => bytes.truncate(at),
                    2 => bytes.insert(at, b"%&=;,/\"{\0\xff"[random(10)]),
                    _ => {
                        let end = (at + random(20)).min(bytes.len());
                        let again = bytes[at..end].to_vec();
                        bytes.splice(at..at, again);
                    }
                }
            }
            run(&bytes);
        }
    }
}

#[test]
fn requests() {
    let examples = [
        "/api/v1/namespaces/a/pods/b/proxy/c%2fd?watch=true&limit=5&continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MX0",
        "/apis/apps/v1/watch/namespaces/x/deployments?fieldSelector=metadata.name%3Da,b!=c&labelSelector=a+in+(b)&timeoutSeconds=9",
        "/api/v1/pods?resourceVersion=5&resourceVersionMatch=Exact&sendInitialEvents=true&allowWatchBookmarks=1",
        "application/json;as=Table;v=v1;g=meta.k8s.io,application/vnd.kubernetes.protobuf;q=0.5,*/*",
        r#"{"gracePeriodSeconds":5,"preconditions":{"uid":"u"},"propagationPolicy":"Orphan","dryRun":["All"]}"#,
        "?dryRun=All&fieldValidation=Strict&fieldManager=m&force=true&propagationPolicy=Background",
    ];
    each_mutant(&examples, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let (path, query) = text.split_once('?').unwrap_or((&text, ""));
        let query = Query::parse(query);
        for method in [http::Method::GET, http::Method::DELETE, http::Method::PATCH] {
            request_info::parse(&method, path, &query);
        }
        let _ = ListOptions::from_query(&query);
        let _ = WatchOptions::from_query(&query);
        let _ = WriteOptions::from_query(&query, &text, "PatchOptions");
        let _ = DeleteOptions::parse(&query, serde_json::from_str(&text).ok().as_ref());
        let _ = negotiate::form(Some(&text), Offer { protobuf: true, transforms: true, yaml: true });
    });
}

#[test]
fn credentials_and_files() {
    let made = rcgen::generate_simple_self_signed(["a".to_owned()]).expect("a certificate");
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let examples = [
        certificate.as_str(),
        key.as_str(),
        "token,user,uid,\"a,b\"\n",
        "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer: {url: https://i, audiences: [a]}\n  claimMappings: {username: {claim: sub, prefix: \"\"}}\n",
    ];
    each_mutant(&examples, |bytes| {
        common_name(bytes);
        let _ = verifying_keys("test", bytes);
        let _ = signing_key("test", bytes);
        let _ = CertificateVerifier::from_pem("test", bytes);
        let text = String::from_utf8_lossy(bytes);
        let _ = StaticTokens::parse(&text);
        let _ = AuthenticationFile::parse(&text);
    });
    each_mutant(&["0\u{82}binary"], |bytes| {
        let mut der = made.cert.der().to_vec();
        bytes.iter().enumerate().for_each(|(i, byte)| {
            let at = (i * 37 + usize::from(*byte)) % der.len();
            der[at] ^= byte;
        });
        common_name(&der);
    });
}
