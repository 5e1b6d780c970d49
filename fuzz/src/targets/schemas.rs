//! Schemas of custom kinds and their definitions.

use apiserver::crd;
use machinery::{json, schema, status};
use serde_json::{Value, json};

use super::texts;
use crate::cluster::WORLD;

const SCHEMA: &str = r##"{"type":"object","required":["a"],"properties":{"a":{"type":"string","pattern":"^a+$","default":"a","enum":["a"]},
"b":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["k"],"items":{"type":"object","properties":{"k":{"type":"string"}}}},
"c":{"x-kubernetes-int-or-string":true,"anyOf":[{"type":"integer"},{"type":"string"}]},
"d":{"type":"object","additionalProperties":{"type":"number","minimum":0,"multipleOf":0.5}},"e":{"type":"object","x-kubernetes-embedded-resource":true}}}"##;

pub fn schema_examples() -> Vec<Vec<u8>> {
    texts(&[
        SCHEMA,
        r#"{"type":"object","x-kubernetes-preserve-unknown-fields":true,"not":{"required":["a"]}}"#,
    ])
}

fn use_schema(text: &Value) {
    schema::crd_rules::check_schema(text, &status::Path::new("schema"));
    let Ok(compiled) = schema::from_crd(text, false) else { return };
    let mut object = json!({"a": 1, "b": [{"k": "x"}, {"k": "x"}], "c": "y", "d": {"z": 0.25}, "e": {}});
    schema::prune::prune(&compiled, &mut object);
    schema::default::apply(&compiled, &mut object);
    schema::validate::validate(&compiled, &object);
}

/// A schema is compiled or refused; an object against it is pruned, defaulted and judged.
pub fn schema(bytes: &[u8]) {
    if let Ok(parsed) = json::parse(bytes) {
        use_schema(&parsed.value);
    }
}

pub fn definition_examples() -> Vec<Vec<u8>> {
    vec![
        format!(
            r#"{{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{{"name":"as.b.c","uid":"u"}},
"spec":{{"group":"b.c","scope":"Namespaced","names":{{"plural":"as","singular":"a","kind":"A","listKind":"AList","shortNames":["x"]}},
"versions":[{{"name":"v1","served":true,"storage":true,"schema":{{"openAPIV3Schema":{SCHEMA}}},
"selectableFields":[{{"jsonPath":".a"}}],"additionalPrinterColumns":[{{"name":"N","type":"string","jsonPath":".a[?(@.b)]"}}],
"subresources":{{"status":{{}},"scale":{{"specReplicasPath":".spec.r","statusReplicasPath":".status.r","labelSelectorPath":".status.s"}}}}}}]}}}}"#
        )
        .into_bytes(),
    ]
}

/// A definition goes through every check; one that passes them all is served.
pub fn definition(bytes: &[u8]) {
    let Ok(parsed) = json::parse(bytes) else { return };
    let mut definition = parsed.value;
    let Some(schema) = schema::for_kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition") else {
        return;
    };
    if !definition.is_object() || schema::decode::decode(&schema, &mut definition).is_err() {
        return;
    }
    schema::default::apply(&schema, &mut definition);
    let names = crd::names::decide(&definition, std::iter::empty());
    let refused = !crd::validate::definition(&definition, None).is_empty();
    let _ = crd::validate::definition(&definition, Some(&definition));
    if refused {
        return;
    }
    names.write_into(&mut definition, jiff::Timestamp::UNIX_EPOCH);
    let _inside = WORLD.runtime.enter();
    let kinds = crd::compile::kinds(&WORLD.registry, &definition);
    assert!(kinds.is_ok(), "accepted and not served: {:?}", kinds.err());
}
