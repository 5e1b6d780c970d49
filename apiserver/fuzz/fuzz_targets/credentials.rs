//! Token files, key files and certificates: `cargo +nightly fuzz run credentials`.
#![no_main]

use apiserver::authn::certificate::{CertificateVerifier, common_name};
use apiserver::authn::static_token::StaticTokens;
use apiserver::tokens::keys::{signing_key, verifying_keys};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    common_name(bytes);
    let _ = verifying_keys("fuzz", bytes);
    let _ = signing_key("fuzz", bytes);
    let _ = CertificateVerifier::from_pem("fuzz", bytes);
    let _ = StaticTokens::parse(&String::from_utf8_lossy(bytes));
});
