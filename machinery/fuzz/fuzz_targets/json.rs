//! JSON bodies, decoded as a Pod: `cargo +nightly fuzz run json`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use machinery::{json, schema};

fuzz_target!(|bytes: &[u8]| {
    let Ok(parsed) = json::parse(bytes) else { return };
    let text = parsed.value.to_string();
    assert_eq!(json::parse(text.as_bytes()).map(|p| p.value).as_ref(), Ok(&parsed.value));
    let Some(pod) = schema::for_kind("", "v1", "Pod") else { return };
    let mut object = parsed.value;
    if object.is_object() && schema::decode::decode(&pod, &mut object).is_ok() {
        schema::default::apply(&pod, &mut object);
    }
});
