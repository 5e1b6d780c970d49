//! Removing the fields of custom objects that their schema does not know.
//!
//! Metadata at the root and in embedded resources is known even when the schema does not describe it.
//! Nothing is removed below `x-kubernetes-preserve-unknown-fields`, except inside fields with a schema.

use serde_json::{Map, Value};

use super::{Schema, Shape, Struct, Type, TypeId, Types, builtin};

/// Prunes in place; returns the removed paths as upstream reports them (`spec.foo[0].bar`).
pub fn prune(schema: &Schema, object: &mut Value) -> Vec<String> {
    let mut pass = Pass { types: &schema.types, removed: Vec::new() };
    pass.value(schema.root, object, &mut String::new());
    pass.removed
}

struct Pass<'t> {
    types: &'t Types,
    removed: Vec<String>,
}

impl Pass<'_> {
    fn value(&mut self, id: TypeId, value: &mut Value, path: &mut String) {
        let ty = self.types.get(id);
        match (&ty.shape, value) {
            (Shape::Struct(s), Value::Object(members)) => self.object(ty, s, members, path),
            (Shape::Map(item), Value::Object(members)) => {
                for (key, value) in members.iter_mut() {
                    with(path, key, |path| self.value(*item, value, path));
                }
            }
            (Shape::List(list), Value::Array(items)) => {
                for (i, value) in items.iter_mut().enumerate() {
                    let len = path.len();
                    path.push_str(&format!("[{i}]"));
                    self.value(list.item, value, path);
                    path.truncate(len);
                }
            }
            _ => {}
        }
    }

    fn object(&mut self, ty: &Type, s: &Struct, members: &mut Map<String, Value>, path: &mut String) {
        members.retain(|name, value| {
            if ty.embedded && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                if name == "metadata" {
                    with(path, name, |path| self.metadata(value, path));
                }
                return true;
            }
            match s.field(name) {
                Some(field) => {
                    with(path, name, |path| self.value(field.ty, value, path));
                    true
                }
                None if ty.preserve_unknown => true,
                None => {
                    with(path, name, |path| self.removed.push(path.clone()));
                    false
                }
            }
        });
    }

    /// Object metadata has the built-in type, whatever the custom schema says about it.
    fn metadata(&mut self, value: &mut Value, path: &mut String) {
        let Some(schema) = builtin::definition("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta") else {
            return;
        };
        let mut inner = Pass { types: &schema.types, removed: Vec::new() };
        inner.value(schema.root, value, path);
        self.removed.append(&mut inner.removed);
    }
}

/// Runs `work` with the member's name added to the path.
fn with(path: &mut String, name: &str, work: impl FnOnce(&mut String)) {
    let len = path.len();
    if len > 0 {
        path.push('.');
    }
    path.push_str(name);
    work(path);
    path.truncate(len);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::from_crd;

    #[test]
    fn removes_and_keeps() {
        let openapi = json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "known": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}},
            "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {
                "typed": {"type": "object", "properties": {"b": {"type": "string"}}}}},
            "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {}}},
            "pod": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}}
        }}}});
        let schema = from_crd(&openapi, false).expect("a structural schema");
        let mut object = json!({
            "apiVersion": "a/v1", "kind": "K", "metadata": {"name": "x", "nope": 1}, "extra": 1,
            "spec": {"x": 1, "known": [{"a": "1", "c": 2}], "any": {"q": 1, "typed": {"b": "", "z": 1}},
                "map": {"k": {"v": 1}}, "pod": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "data": 1}}
        });
        let removed = prune(&schema, &mut object);
        assert_eq!(
            object,
            json!({"apiVersion": "a/v1", "kind": "K", "metadata": {"name": "x"},
                "spec": {"known": [{"a": "1"}], "any": {"q": 1, "typed": {"b": ""}}, "map": {"k": {}},
                    "pod": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}}})
        );
        let mut removed: Vec<&str> = removed.iter().map(String::as_str).collect();
        removed.sort_unstable();
        assert_eq!(
            removed,
            [
                "extra",
                "metadata.nope",
                "spec.any.typed.z",
                "spec.known[0].c",
                "spec.map.k.v",
                "spec.pod.data",
                "spec.x"
            ]
        );
    }
}
