//! Applied configurations and the managedFields of strangers: `cargo +nightly fuzz run apply`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use machinery::{apply, json, schema};
use serde_json::json;

fuzz_target!(|bytes: &[u8]| {
    let (Ok(parsed), Some(pod)) = (json::parse(bytes), schema::for_kind("", "v1", "Pod")) else { return };
    if !parsed.value.is_object() {
        return;
    }
    let manager =
        apply::Manager { name: "m".into(), subresource: String::new(), now: jiff::Timestamp::UNIX_EPOCH };
    let reset = apply::ResetFields::none();
    let live = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "uid": "u"}, "spec": {"containers": [{"name": "c"}]}});
    let _ = apply::apply(&pod, "v1", Some(&live), &parsed.value, &manager, true, &reset);
    let mut new = parsed.value.clone();
    apply::track_update(&pod, "v1", Some(&parsed.value), &mut new, &manager, &reset);
});
