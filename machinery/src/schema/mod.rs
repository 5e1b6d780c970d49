//! One structure for every type the API knows: built-in ones from the embedded table, custom ones compiled from
//! a CustomResourceDefinition's schema.
//!
//! A [`Schema`] is a cheap handle on one type inside an arena ([`Types`]), because types refer to themselves
//! and to each other. Arenas never change once built. The passes over objects live in the submodules:
//! [`decode`] (what Go's typed decoding does to built-in objects), [`default`], [`prune`], [`validate`] and
//! [`structural`] for custom ones. Nothing here does IO.

pub mod builtin;
pub mod crd;
pub mod crd_rules;
pub mod decode;
pub mod default;
pub mod prune;
pub mod structural;
pub mod validate;

mod formats;

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;
use smallvec::SmallVec;

pub use builtin::{builtins, definition, for_kind};
pub use crd::from_crd;

/// Text that is a slice of the embedded table for built-in types, and owned for custom ones.
pub type Text = Cow<'static, str>;

/// Index of a type in its arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeId(pub u32);

/// An arena of types. Every [`TypeId`] inside points into the same arena.
#[derive(Debug, Default)]
pub struct Types {
    pub(crate) nodes: Vec<Type>,
}

impl Types {
    /// Number of types; ids run from zero to it.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The type behind the id, which must come from this arena.
    pub fn get(&self, id: TypeId) -> &Type {
        &self.nodes[id.0 as usize]
    }

    pub(crate) fn push(&mut self, node: Type) -> TypeId {
        let id = TypeId(u32::try_from(self.nodes.len()).unwrap_or(u32::MAX));
        self.nodes.push(node);
        id
    }
}

/// Handle on one type: what the pipeline passes around. Clone freely.
#[derive(Clone, Debug)]
pub struct Schema {
    pub types: Arc<Types>,
    pub root: TypeId,
}

impl Schema {
    /// The type itself.
    pub fn root(&self) -> &Type {
        self.types.get(self.root)
    }

    /// A handle on another type of the same arena.
    pub fn at(&self, id: TypeId) -> Schema {
        Schema { types: Arc::clone(&self.types), root: id }
    }

    /// The type of the field reached through these names, if every step is a struct's field or a map's value.
    pub fn field(&self, path: &[&str]) -> Option<Schema> {
        let mut id = self.root;
        for name in path {
            id = self.types.get(id).child(name)?;
        }
        Some(self.at(id))
    }

    /// Whether the type comes from the built-in table (Go's decoding rules apply) and not from a
    /// CustomResourceDefinition.
    pub fn is_builtin(&self) -> bool {
        Arc::ptr_eq(&self.types, builtins())
    }
}

/// One type.
#[derive(Clone, Debug)]
pub struct Type {
    /// OpenAPI definition name, empty for anonymous types.
    pub name: Text,
    pub shape: Shape,
    /// Server-side apply owns it as a whole (`x-kubernetes-map-type: atomic`).
    pub atomic: bool,
    /// `null` is a value of its own and is kept.
    pub nullable: bool,
    /// Unknown fields are kept below this object (until a field with its own schema).
    pub preserve_unknown: bool,
    /// The value is a whole API object: apiVersion, kind and metadata are known and checked.
    pub embedded: bool,
    /// Replaces a missing or forbidden-null value.
    pub default: Option<Value>,
    /// Value rules of custom types.
    pub checks: Option<Box<Checks>>,
}

impl Type {
    pub(crate) fn new(name: impl Into<Text>, shape: Shape) -> Self {
        Type {
            name: name.into(),
            shape,
            atomic: false,
            nullable: false,
            preserve_unknown: false,
            embedded: false,
            default: None,
            checks: None,
        }
    }

    /// The struct behind the type, if it is one.
    pub fn as_struct(&self) -> Option<&Struct> {
        match &self.shape {
            Shape::Struct(s) => Some(s),
            _ => None,
        }
    }

    /// The type of a member: a struct's field or any value of a map.
    pub fn child(&self, name: &str) -> Option<TypeId> {
        match &self.shape {
            Shape::Struct(s) => s.field(name).map(|f| f.ty),
            Shape::Map(value) => Some(*value),
            _ => None,
        }
    }
}

/// What a value of the type looks like in JSON.
#[derive(Clone, Debug)]
pub enum Shape {
    Struct(Struct),
    /// String keys, values of one type.
    Map(TypeId),
    List(List),
    String,
    /// Base64 in JSON, bytes in protobuf.
    Bytes,
    Bool,
    Int32,
    Int64,
    Double,
    Quantity,
    IntOrString,
    Time,
    MicroTime,
    /// Any object (`runtime.RawExtension`).
    Raw,
    FieldsV1,
    /// Anything.
    Json,
    /// A JSON schema or a list of them.
    SchemaOrArray(TypeId),
    /// A JSON schema or a boolean.
    SchemaOrBool(TypeId),
    /// A JSON schema or a list of strings.
    SchemaOrStrings(TypeId),
}

/// An object with known fields.
#[derive(Clone, Debug, Default)]
pub struct Struct {
    /// Sorted by name.
    pub fields: Vec<Field>,
    /// Protobuf numbers to fields, sorted; empty for custom types.
    pub wire: Vec<WireField>,
}

impl Struct {
    /// The field of that JSON name (case matters).
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.index_of(name).map(|i| &self.fields[i])
    }

    /// The position of the field in `fields`.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.fields.binary_search_by(|f| f.name.as_ref().cmp(name)).ok()
    }
}

/// A field of a [`Struct`].
#[derive(Clone, Debug)]
pub struct Field {
    pub name: Text,
    pub ty: TypeId,
    /// Go has a pointer here: a zero value is a value, only absence is absence.
    pub pointer: bool,
    /// Go writes the field even when it is empty (no `omitempty`).
    pub always: bool,
    pub required: bool,
    /// The default of the published schema: zero values of fields that are always written, and a few real ones.
    pub default: Option<Value>,
    /// Set by upstream's defaulting functions when the field is absent.
    pub set_default: Option<SetDefault>,
    pub merge: Merge,
    /// `x-kubernetes-map-type` of the field itself, which wins over its type's; empty when it says nothing.
    pub map_type: Text,
    /// Protobuf field number, behind the numbers of nested messages that JSON inlines.
    pub number: SmallVec<[u32; 3]>,
    /// Go's name of the type where it is not what the schema suggests; see [`decode`].
    pub go_type: Text,
}

impl Field {
    pub(crate) fn new(name: impl Into<Text>, ty: TypeId) -> Self {
        Field {
            name: name.into(),
            ty,
            pointer: false,
            always: false,
            required: false,
            default: None,
            set_default: None,
            merge: Merge::default(),
            map_type: Text::default(),
            number: SmallVec::new(),
            go_type: Text::default(),
        }
    }
}

/// A default set by the kind's rules.
#[derive(Clone, Debug, PartialEq)]
pub struct SetDefault {
    pub value: Value,
    /// Zero values (`""`, 0, false, empty) count as absent too.
    pub zero_is_absent: bool,
}

/// How a strategic merge patch treats a field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merge {
    /// Lists are merged and not replaced.
    pub merge: bool,
    /// Maps are replaced and not merged.
    pub replace: bool,
    pub retain_keys: bool,
    /// Key of merged lists of objects; empty for lists of scalars.
    pub key: Text,
}

/// A list type.
#[derive(Clone, Debug)]
pub struct List {
    pub item: TypeId,
    pub kind: ListKind,
    /// Whether the schema names the kind; lists without one are atomic too.
    pub declared: bool,
    /// Keys of [`ListKind::Map`].
    pub keys: Vec<Text>,
    /// Protobuf wraps the list in a message of its own.
    pub wrapped: bool,
}

/// How server-side apply owns the elements of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListKind {
    Atomic,
    Set,
    Map,
}

/// One protobuf field of a message.
#[derive(Clone, Debug)]
pub struct WireField {
    pub number: u32,
    pub target: WireTarget,
}

/// Where a protobuf field's content goes.
#[derive(Clone, Debug)]
pub enum WireTarget {
    /// Position in [`Struct::fields`].
    Field(u32),
    /// A nested message whose fields JSON inlines.
    Nested(Vec<WireField>),
}

/// Value rules of a custom type, as JSON schema names them.
#[derive(Clone, Debug, Default)]
pub struct Checks {
    pub type_name: Text,
    pub format: Text,
    pub pattern: Option<Pattern>,
    pub minimum: Option<f64>,
    pub maximum: Option<f64>,
    pub exclusive_minimum: bool,
    pub exclusive_maximum: bool,
    pub multiple_of: Option<f64>,
    pub min_length: Option<u64>,
    pub max_length: Option<u64>,
    pub min_items: Option<u64>,
    pub max_items: Option<u64>,
    pub unique_items: bool,
    pub min_properties: Option<u64>,
    pub max_properties: Option<u64>,
    pub required: Vec<String>,
    pub enumeration: Vec<Value>,
    pub all_of: Vec<TypeId>,
    pub any_of: Vec<TypeId>,
    pub one_of: Vec<TypeId>,
    pub not: Option<TypeId>,
}

/// A compiled pattern with its source.
#[derive(Clone, Debug)]
pub struct Pattern {
    pub source: String,
    pub regex: regex::Regex,
}
