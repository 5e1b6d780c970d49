//! From a node's request to its certificate, and out again.

use base64::Engine;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use serde_json::{Value, json};
use x509_parser::prelude::FromDer;

use super::signers::KUBELET_CLIENT;
use super::signing::Authority;
use crate::options::{Options, SignerFiles, SigningOptions};
use crate::testing::crash::check_crashes;
use crate::testing::world::{Scenario, World};
use crate::testing::{Case, check};

fn request(common_name: &str, organization: &str) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.distinguished_name.push(DnType::OrganizationName, organization);
    let key = KeyPair::generate().expect("a key");
    params.serialize_request(&key).expect("a request").pem().expect("PEM")
}

fn csr(pem: &str, conditions: Value) -> Value {
    let encoded = base64::engine::general_purpose::STANDARD.encode(pem);
    json!({"kind": "CertificateSigningRequest", "metadata": {"name": "node", "uid": "u", "creationTimestamp": crate::testing::NOW},
        "spec": {"request": encoded, "signerName": KUBELET_CLIENT, "username": "system:node:n1",
            "usages": ["digital signature", "client auth"], "expirationSeconds": 3600},
        "status": {"conditions": conditions}})
}

fn authority() -> (String, String) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "kubernetes");
    let key = KeyPair::generate().expect("a key");
    (params.self_signed(&key).expect("a certificate").pem(), key.serialize_pem())
}

fn options(dir: &std::path::Path) -> Options {
    let (cert, key) = authority();
    let files = SignerFiles { cert: dir.join("ca.crt"), key: dir.join("ca.key") };
    std::fs::write(&files.cert, cert).expect("a file");
    std::fs::write(&files.key, key).expect("a file");
    let signing = SigningOptions {
        default: Some(files),
        duration: std::time::Duration::from_secs(86_400),
        ..SigningOptions::default()
    };
    Options { signing, ..Options::default() }
}

/// Requests with the organisation `system:nodes` that `openssl req` made: a second common name of the controller
/// manager, both attributes in one part, text of two bytes a character.
const AMBIGUOUS: [&str; 3] = [
    "-----BEGIN CERTIFICATE REQUEST-----\n\
     MIIBEzCBuwIBADBZMRUwEwYDVQQKDAxzeXN0ZW06bm9kZXMxFzAVBgNVBAMMDnN5\n\
     c3RlbTpub2RlOm4xMScwJQYDVQQDDB5zeXN0ZW06a3ViZS1jb250cm9sbGVyLW1h\n\
     bmFnZXIwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAR1sRNXZkDma43vM6hEh01d\n\
     6xVbfWdzyxCN0ikZQO/j8YD841b54Evlm0H6xLDtY2jEVswn4WdVUwozyVY733Dx\n\
     oAAwCgYIKoZIzj0EAwIDRwAwRAIgOWISG6/urTBGyWhJPu8lSXgivyKa0lqKKNvB\n\
     pr8h/E4CIGA+aCgHyiyPmieCC93MUNOHONt+R29IC/OFrMccxMH0\n\
     -----END CERTIFICATE REQUEST-----\n",
    "-----BEGIN CERTIFICATE REQUEST-----\n\
     MIHqMIGQAgEAMC4xLDATBgNVBAoMDHN5c3RlbTpub2RlczAVBgNVBAMMDnN5c3Rl\n\
     bTpub2RlOm4xMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEdbETV2ZA5muN7zOo\n\
     RIdNXesVW31nc8sQjdIpGUDv4/GA/ONW+eBL5ZtB+sSw7WNoxFbMJ+FnVVMKM8lW\n\
     O99w8aAAMAoGCCqGSM49BAMCA0kAMEYCIQCOc85wjfYvKxotTr89ff/J143Hn+eb\n\
     lcqJW0FF2apGygIhAM9V1Fo/WwN3ocM1uHE4bCdAMEQr/SopT/2GXOTzWMTF\n\
     -----END CERTIFICATE REQUEST-----\n",
    "-----BEGIN CERTIFICATE REQUEST-----\n\
     MIIBBTCBrAIBADBKMSEwHwYDVQQKHhgAcwB5AHMAdABlAG0AOgBuAG8AZABlAHMx\n\
     JTAjBgNVBAMeHABzAHkAcwB0AGUAbQA6AG4AbwBkAGUAOgBuADEwWTATBgcqhkjO\n\
     PQIBBggqhkjOPQMBBwNCAAR1sRNXZkDma43vM6hEh01d6xVbfWdzyxCN0ikZQO/j\n\
     8YD841b54Evlm0H6xLDtY2jEVswn4WdVUwozyVY733DxoAAwCgYIKoZIzj0EAwID\n\
     SAAwRQIhAP0lkTzM/ilSMVYHzd918yDwgFQze8q4ZmBLOsSh4p8+AiBhc7gZKu0s\n\
     TqxUur5zhtaW2QdNHJFvPu22z4IsYDSwLA==\n\
     -----END CERTIFICATE REQUEST-----\n",
];

#[test]
fn a_subject_that_can_be_read_in_two_ways_is_nobodys() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = options(dir.path());
    for pem in AMBIGUOUS {
        check(super::approving::build, "node", &[csr(pem, json!([]))], "");
        let objects = [csr(pem, json!([{"type": "Approved", "status": "True"}]))];
        let case = Case { options: options.clone(), ..Case::new(super::signing::build, &objects) };
        let written = format!("{:?}", case.plan("node").actions().next().expect("a write").verb);
        assert!(written.contains("SignerValidationFailure") && written.contains("the subject"), "{written}");
    }
}

const STATUS: &str = "update /apis/certificates.k8s.io/v1/certificatesigningrequests/node/status";

#[test]
fn signing_follows_the_signers_rules() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = options(dir.path());
    let approved = json!([{"type": "Approved", "status": "True"}]);
    let plan = |pem: &str, conditions: Value| {
        let objects = [csr(pem, conditions)];
        let case = Case { options: options.clone(), ..Case::new(super::signing::build, &objects) };
        case.plan("node")
    };
    let good = request("system:node:n1", "system:nodes");
    assert_eq!(plan(&good, json!([])).summary(), "", "not approved");
    let signed = plan(&good, approved.clone());
    assert_eq!(signed.summary(), STATUS);
    let text = format!("{:?}", signed.actions().next().expect("a write").verb);
    assert!(text.contains("\"certificate\""), "{text}");
    let refused = plan(&request("mallory", "system:masters"), approved);
    assert!(
        format!("{:?}", refused.actions().next().expect("a write").verb).contains("SignerValidationFailure")
    );
}

#[test]
fn certificates_are_what_was_asked_for() {
    let (cert, key) = authority();
    let authority = Authority::new(&cert, &key).expect("an authority");
    let usages = ["digital signature".to_string(), "client auth".to_string()];
    let pem = request("system:node:n1", "system:nodes");
    let now = crate::testing::now();
    let signed = authority
        .sign(&pem, &usages, std::time::Duration::from_secs(3600), now, [1; 16])
        .expect("a certificate");
    let (_, pem) = x509_parser::pem::parse_x509_pem(signed.as_bytes()).expect("PEM");
    let (_, parsed) =
        x509_parser::certificate::X509Certificate::from_der(&pem.contents).expect("a certificate");
    assert_eq!(parsed.subject().to_string(), "CN=system:node:n1, O=system:nodes");
    assert_eq!(parsed.validity().not_after.timestamp(), now.as_second() + 3600);
    assert_eq!(parsed.validity().not_before.timestamp(), now.as_second() - 300);
    assert!(!parsed.is_ca());
    let extended = parsed.extended_key_usage().expect("readable").expect("present").value;
    assert!(extended.client_auth && !extended.server_auth);
}

#[test]
fn approval_asks_first() {
    let objects = [csr(&request("system:node:n1", "system:nodes"), json!([]))];
    let asked = Case::new(super::approving::build, &objects).plan("node");
    let ask = asked.asks[0].clone();
    assert!(format!("{ask:?}").contains("selfnodeclient"));
    let answer = crate::runtime::Answer::Json(std::sync::Arc::new(json!({"status": {"allowed": true}})));
    let case = Case { answers: vec![(ask, answer)], ..Case::new(super::approving::build, &objects) };
    assert_eq!(
        case.plan("node").summary(),
        "update /apis/certificates.k8s.io/v1/certificatesigningrequests/node/approval"
    );
    check(super::approving::build, "node", &[csr(&request("user", "group"), json!([]))], "");
}

#[test]
fn signing_and_cleaning_survive_crashes() {
    let dir = tempfile::tempdir().expect("a directory");
    let approved = json!([{"type": "Approved", "status": "True", "lastUpdateTime": crate::testing::NOW}]);
    let objects = [csr(&request("system:node:n1", "system:nodes"), approved)];
    let mut scenario = Scenario::new(&[super::signing::build, super::cleaning::build], &objects);
    scenario.options = options(dir.path());
    let mut world = World::start(&scenario, None, false);
    world.run();
    let signed =
        world.shared.model.lock().get("CertificateSigningRequest", "", "node").expect("kept for a while");
    assert!(signed["status"]["certificate"].is_string());
    scenario.horizon = std::time::Duration::from_secs(2 * 3600);
    let mut world = World::start(&scenario, None, false);
    assert!(world.run().shared.model.lock().all("CertificateSigningRequest").is_empty());
    check_crashes(&scenario);
}

#[test]
fn approving_survives_crashes() {
    let objects = [csr(&request("system:node:n1", "system:nodes"), json!([]))];
    let mut scenario = Scenario::new(&[super::approving::build], &objects);
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    scenario.extra.insert(path.into(), json!({"status": {"allowed": true}}));
    let mut world = World::start(&scenario, None, false);
    world.run();
    let approved =
        world.shared.model.lock().get("CertificateSigningRequest", "", "node").expect("the request");
    assert_eq!(approved["status"]["conditions"][0]["reason"], "AutoApproved");
    check_crashes(&scenario);
}
