//! YAML bodies: `cargo +nightly fuzz run yaml`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use machinery::yaml;

fuzz_target!(|bytes: &[u8]| {
    let _ = yaml::parse(bytes);
    let _ = yaml::duplicate_keys(bytes);
});
