//! Files of kind AuthenticationConfiguration: `cargo +nightly fuzz run configuration`.
#![no_main]

use apiserver::authn::oidc::AuthenticationFile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = AuthenticationFile::parse(text);
});
