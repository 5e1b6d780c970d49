//! JSON paths of printer columns: `cargo +nightly fuzz run jsonpath`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use machinery::jsonpath::Path;
use serde_json::json;

fuzz_target!(|text: &str| {
    if let Ok(path) = Path::parse(text) {
        path.eval(&json!({"a": [{"b": "c", "n": 1}, {"b": "d"}], "e": {"f": null}}));
    }
});
