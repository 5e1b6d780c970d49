//! How server-side apply sees a value: as a leaf that has one owner, as a map, or as a list of keyed elements.

use serde_json::Value;

use crate::schema::{self, List, ListKind, Schema, Shape, TypeId, Types};

/// The type of a value, or the lack of one.
#[derive(Clone, Copy)]
pub(super) enum Node<'t> {
    Typed(&'t Types, TypeId),
    /// Below fields the schema does not describe: maps merge, lists are leaves.
    Untyped,
}

/// What to do with a value of a node.
#[derive(Clone, Copy)]
pub(super) enum Atom<'t> {
    Leaf,
    Map,
    List(&'t List),
}

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

impl<'t> Node<'t> {
    pub(super) fn root(schema: &'t Schema) -> Self {
        Node::Typed(&schema.types, schema.root)
    }

    /// The atom for this value; untyped nodes take the value's own shape.
    pub(super) fn atom(self, value: Option<&Value>) -> Atom<'t> {
        match self {
            Node::Untyped => match value {
                Some(Value::Object(_)) => Atom::Map,
                _ => Atom::Leaf,
            },
            Node::Typed(types, id) => {
                let ty = types.get(id);
                match &ty.shape {
                    _ if ty.atomic => Atom::Leaf,
                    Shape::Struct(_) | Shape::Map(_) => Atom::Map,
                    Shape::List(list) if list.kind != ListKind::Atomic => Atom::List(list),
                    // A custom type without any structure of its own.
                    Shape::Json if ty.checks.is_some() => Node::Untyped.atom(value),
                    _ => Atom::Leaf,
                }
            }
        }
    }

    /// The node of a map's member, and whether the member is a field with a name of its own in the schema.
    pub(super) fn member(self, name: &str) -> (Node<'t>, bool) {
        let Node::Typed(types, id) = self else { return (Node::Untyped, false) };
        let ty = types.get(id);
        if ty.embedded && name == "metadata" {
            return (object_meta(), true);
        }
        match &ty.shape {
            Shape::Struct(s) => match s.field(name) {
                Some(field) => (Node::Typed(types, field.ty), true),
                None => (Node::Untyped, ty.embedded && matches!(name, "apiVersion" | "kind")),
            },
            Shape::Map(item) => (Node::Typed(types, *item), false),
            _ => (Node::Untyped, false),
        }
    }

    /// Whether a member of that name may be there.
    pub(super) fn allows(self, name: &str) -> bool {
        let Node::Typed(types, id) = self else { return true };
        let ty = types.get(id);
        match &ty.shape {
            Shape::Struct(_) => ty.preserve_unknown || self.member(name).1,
            _ => true,
        }
    }

    /// The node of a list's items.
    pub(super) fn item(self) -> Node<'t> {
        match self {
            Node::Typed(types, id) => match &types.get(id).shape {
                Shape::List(list) => Node::Typed(types, list.item),
                _ => Node::Untyped,
            },
            Node::Untyped => Node::Untyped,
        }
    }

    /// The default of a list's key, looked up in the items' type. Defaults set by upstream's defaulting functions
    /// are not those that count here.
    pub(super) fn default_of(self, key: &str) -> Option<&'t Value> {
        let Node::Typed(types, id) = self.item() else { return None };
        types.get(id).as_struct()?.field(key)?.default.as_ref()
    }
}

/// The type of object metadata, which custom schemas need not describe.
fn object_meta<'t>() -> Node<'t> {
    static META: std::sync::OnceLock<Option<Schema>> = std::sync::OnceLock::new();
    match META.get_or_init(|| schema::definition(OBJECT_META)) {
        Some(schema) => Node::Typed(&schema.types, schema.root),
        None => Node::Untyped,
    }
}
