//! Quantities, durations and times: `cargo +nightly fuzz run quantity`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use machinery::quantity::Quantity;
use machinery::time::{self, duration};

fuzz_target!(|text: &str| {
    if let Ok(quantity) = Quantity::parse(text) {
        let shown = quantity.to_string();
        assert_eq!(Quantity::parse(&shown).map(|q| q.to_string()).ok(), Some(shown));
    }
    let _ = duration::parse(text);
    let _ = time::parse_rfc3339(text);
    let _ = time::parse_micro(text);
});
