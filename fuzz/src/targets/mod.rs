//! The targets, by what they read. Each file has the examples beside the functions.

pub mod credentials;
pub mod languages;
pub mod objects;
pub mod patches;
pub mod requests;
pub mod schemas;
pub mod store;
pub mod wire;

/// Texts as examples.
fn texts(all: &[&str]) -> Vec<Vec<u8>> {
    all.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// A pod with a bit of everything that decoders treat differently.
pub const POD: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","labels":{"a":"b"},"creationTimestamp":null,
"finalizers":["x/y"],"managedFields":[{"manager":"m","operation":"Update","apiVersion":"v1","fieldsType":"FieldsV1",
"fieldsV1":{"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:image":{}}}},"f:metadata":{"f:finalizers":{"v:\"x/y\"":{}}}}}]},
"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":80,"protocol":"TCP"}],
"resources":{"limits":{"cpu":"100m","memory":"1Gi"}},"livenessProbe":{"httpGet":{"port":"http"}}}],
"volumes":[{"name":"v","emptyDir":{}}],"terminationGracePeriodSeconds":30}}"#;

/// [`POD`] as a tree.
pub fn pod() -> serde_json::Value {
    serde_json::from_str(POD).expect("the example is JSON")
}
