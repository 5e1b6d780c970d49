//! Label and field selectors: `cargo +nightly fuzz run selectors`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use machinery::selector::{Fields, Labels};

fuzz_target!(|text: &str| {
    if let Ok(labels) = Labels::parse(text) {
        assert!(Labels::parse(&labels.to_string()).is_ok());
    }
    let _ = Fields::parse(text);
});
