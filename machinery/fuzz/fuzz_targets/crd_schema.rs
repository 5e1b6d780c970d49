//! Schemas of custom kinds, and an object against them: `cargo +nightly fuzz run crd_schema`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use machinery::{json, schema, status};
use serde_json::json;

fuzz_target!(|bytes: &[u8]| {
    let Ok(parsed) = json::parse(bytes) else { return };
    schema::crd_rules::check_schema(&parsed.value, &status::Path::new("schema"));
    let Ok(compiled) = schema::from_crd(&parsed.value, false) else { return };
    let mut object = json!({"a": 1, "b": [{"k": "x"}, {"k": "x"}], "c": "y", "d": {"z": 0.25}, "e": {}});
    schema::prune::prune(&compiled, &mut object);
    schema::default::apply(&compiled, &mut object);
    schema::validate::validate(&compiled, &object);
});
