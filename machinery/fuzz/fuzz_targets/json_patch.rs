//! JSON patches on a small document: `cargo +nightly fuzz run json_patch`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use machinery::{json, patch};
use serde_json::json;

fuzz_target!(|bytes: &[u8]| {
    let Ok(parsed) = json::parse(bytes) else { return };
    let document = json!({"a": [1, {"b": "c"}, []], "d/e": {"~": null}});
    let _ = patch::json_patch(&document, &parsed.value);
    patch::merge_patch(&document, &parsed.value);
});
