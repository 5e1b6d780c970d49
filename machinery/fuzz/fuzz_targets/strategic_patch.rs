//! Strategic merge patches on a Pod: `cargo +nightly fuzz run strategic_patch`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use machinery::{json, patch, schema};
use serde_json::json;

fuzz_target!(|bytes: &[u8]| {
    let (Ok(parsed), Some(pod)) = (json::parse(bytes), schema::for_kind("", "v1", "Pod")) else { return };
    let document = json!({"metadata": {"finalizers": ["a", "b"]}, "spec": {"containers": [{"name": "c"}, {"name": "d"}],
        "volumes": [{"name": "v", "emptyDir": {}}]}});
    let _ = patch::strategic(&pod, &document, &parsed.value);
});
