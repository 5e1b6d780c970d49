//! Objects made from a schema: every field can be there, with values that rules look at closely.

use machinery::schema::{Schema, Shape, TypeId, Types};
use serde_json::{Map, Value, json};

use crate::entropy::Entropy;

/// Deeper objects add nothing but time.
const DEPTH_MAX: usize = 12;
/// Fields in one object; schemas of pods have thousands of paths.
const VALUES_MAX: usize = 400;

const TEXTS: [&str; 56] = [
    "",
    "a",
    "a-b.c",
    "A",
    "-a",
    "a-",
    "a_b",
    "0",
    "1",
    "80",
    "http",
    "10.0.0.1",
    "fd00::1",
    "10.0.0.0/24",
    "fd00::/64",
    "0.0.0.0/0",
    "*",
    "*.a",
    "a/b",
    "a/b/c",
    "/",
    "/a",
    "../a",
    "a:b",
    "https://a/b?c=d",
    "50%",
    "101%",
    "-1%",
    "1.5%",
    "{.a}",
    "^a+$",
    "(",
    "2026-01-02T03:04:05Z",
    "9999-12-31T23:59:59Z",
    "0001-01-01T00:00:00Z",
    "* * * * *",
    "@daily",
    "0 0 31 2 *",
    "Europe/Berlin",
    "1h",
    "TCP",
    "UDP",
    "Always",
    "RollingUpdate",
    "ClusterIP",
    "LoadBalancer",
    "None",
    "IPv4",
    "DoNotSchedule",
    "kubernetes.io/hostname",
    "system:node:a",
    "e\u{301}\u{fffd}\u{1f600}",
    "\u{0}",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "true",
    "In",
];
const NUMBERS: [i64; 14] =
    [0, 1, -1, 2, 10, 80, 100, 65535, 65536, 3600, i32::MAX as i64, i32::MIN as i64, i64::MAX, i64::MIN];
const QUANTITIES: [&str; 14] = [
    "0",
    "1",
    "100m",
    "1Gi",
    "-1",
    "1e3",
    "1n",
    "0.5",
    "9E",
    "999999999999999999999999",
    "1Ki",
    "-0.0001",
    "1u",
    "8Ei",
];

/// An object of the schema. The same bytes give the same object.
pub fn object(schema: &Schema, entropy: &mut Entropy<'_>) -> Value {
    let mut left = VALUES_MAX;
    Generator { types: &schema.types, entropy, left: &mut left }.value(schema.root, 0)
}

struct Generator<'a, 'b> {
    types: &'a Types,
    entropy: &'a mut Entropy<'b>,
    left: &'a mut usize,
}

impl Generator<'_, '_> {
    fn value(&mut self, id: TypeId, depth: usize) -> Value {
        *self.left = self.left.saturating_sub(1);
        let entropy = &mut *self.entropy;
        match &self.types.get(id).shape {
            Shape::Struct(_) | Shape::Map(_) | Shape::List(_) if depth >= DEPTH_MAX || *self.left == 0 => {
                Value::Null
            }
            Shape::Struct(s) => {
                let mut map = Map::new();
                for field in &s.fields {
                    let wanted =
                        if field.required { self.entropy.chance(250) } else { self.entropy.chance(70) };
                    if wanted && !self.entropy.is_empty() {
                        let value = self.value(field.ty, depth + 1);
                        map.insert(field.name.to_string(), value);
                    }
                }
                Value::Object(map)
            }
            Shape::Map(item) => {
                let keys: Vec<&str> =
                    (0..entropy.below(3)).map(|_| TEXTS[entropy.below(TEXTS.len())]).collect();
                keys.into_iter().map(|key| (key.to_owned(), self.value(*item, depth + 1))).collect()
            }
            Shape::List(list) => (0..entropy.below(4)).map(|_| self.value(list.item, depth + 1)).collect(),
            Shape::String => TEXTS[entropy.below(TEXTS.len())].into(),
            Shape::Bytes => ["", "YQ==", "not base64", "////"][entropy.below(4)].into(),
            Shape::Bool => entropy.chance(128).into(),
            Shape::Int32 | Shape::Int64 => NUMBERS[entropy.below(NUMBERS.len())].into(),
            Shape::Double => json!([0.5, -1.0, 1e300, 0.0][entropy.below(4)]),
            Shape::Quantity => QUANTITIES[entropy.below(QUANTITIES.len())].into(),
            Shape::IntOrString if entropy.chance(128) => TEXTS[entropy.below(TEXTS.len())].into(),
            Shape::IntOrString => NUMBERS[entropy.below(NUMBERS.len())].into(),
            Shape::Time | Shape::MicroTime => {
                ["2026-01-02T03:04:05Z", "2026-01-02T03:04:05.000006Z", "9999-12-31T23:59:59Z", "x"]
                    [entropy.below(4)]
                .into()
            }
            Shape::Raw | Shape::Json | Shape::FieldsV1 => [
                json!({}),
                json!({"kind": "A", "apiVersion": "b/v1"}),
                json!([1]),
                json!("a"),
                json!({"f:metadata": {}}),
            ][entropy.below(5)]
            .clone(),
            Shape::SchemaOrArray(id) | Shape::SchemaOrBool(id) | Shape::SchemaOrStrings(id) => {
                if entropy.chance(100) { json!(true) } else { self.value(*id, depth + 1) }
            }
        }
    }
}
