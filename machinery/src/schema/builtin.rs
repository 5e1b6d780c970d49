//! The built-in types, read once from the embedded tables (`tables/types.tsv`, written by `tables/generate.py`).
//!
//! The tables are part of the binary: a malformed row is a bug that the tests catch, and such a row is skipped.

use std::sync::{Arc, OnceLock};

use rustc_hash::FxHashMap;
use serde_json::Value;
use smallvec::SmallVec;

use super::{
    Field, List, ListKind, Merge, Schema, SetDefault, Shape, Struct, Text, Type, TypeId, Types, WireField,
    WireTarget,
};

static TYPES: &str = include_str!("../../tables/types.tsv");
static STATIC_DEFAULTS: &str = include_str!("../../tables/static_defaults.tsv");

/// A group, version and kind, all borrowed from the table.
type Gvk = (&'static str, &'static str, &'static str);

struct Table {
    types: Arc<Types>,
    by_name: FxHashMap<&'static str, TypeId>,
    by_kind: FxHashMap<Gvk, TypeId>,
    /// Every group-version-kind row in the table's order.
    kinds: Vec<(Gvk, TypeId)>,
    extensions: FxHashMap<TypeId, &'static str>,
}

static TABLE: OnceLock<Table> = OnceLock::new();

fn table() -> &'static Table {
    TABLE.get_or_init(load)
}

/// The arena of all built-in types.
pub fn builtins() -> &'static Arc<Types> {
    &table().types
}

/// The schema of a built-in kind; `group` is empty for core.
pub fn for_kind(group: &str, version: &str, kind: &str) -> Option<Schema> {
    let table = table();
    // The borrow checker wants 'static keys for a plain lookup in a map of 'static tuples; a covariant
    // reference to the map does it.
    let by_kind: &FxHashMap<(&str, &str, &str), TypeId> = &table.by_kind;
    let root = *by_kind.get(&(group, version, kind))?;
    Some(Schema { types: Arc::clone(&table.types), root })
}

/// The schema of an OpenAPI definition (`io.k8s.api.core.v1.PodSpec`).
pub fn definition(name: &str) -> Option<Schema> {
    let table = table();
    let by_name: &FxHashMap<&str, TypeId> = &table.by_name;
    let root = *by_name.get(name)?;
    Some(Schema { types: Arc::clone(&table.types), root })
}

/// The full names of all built-in types.
#[cfg(test)]
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    builtins().nodes.iter().map(|ty| ty.name.as_ref()).filter(|name| !name.is_empty())
}

/// Every group, version and kind with its type, in the table's order (by definition name).
pub fn kinds() -> impl Iterator<Item = (Gvk, TypeId)> {
    table().kinds.iter().copied()
}

/// The OpenAPI extensions of a definition that have no member in [`Type`], as JSON text.
pub fn extensions(id: TypeId) -> Option<&'static str> {
    table().extensions.get(&id).copied()
}

/// Builds the arena: named types first, in the table's order, so that `#N` is the type's id.
fn load() -> Table {
    let mut loader = Loader::default();
    let names = TYPES.lines().filter(|l| l.starts_with("T\t"));
    loader.types.nodes = names.map(|_| Type::new("", Shape::Json)).collect();
    let mut current: Option<(TypeId, Type)> = None;
    let mut next = 0;
    for line in TYPES.lines() {
        let mut columns = line.split('\t');
        match columns.next() {
            Some("T") => {
                loader.finish(current.take());
                let id = TypeId(next);
                next += 1;
                current = Some((id, loader.named(id, columns)));
            }
            Some("F") => {
                if let (Some(field), Some((_, ty))) = (loader.field(columns), current.as_mut())
                    && let Shape::Struct(s) = &mut ty.shape
                {
                    s.fields.push(field);
                }
            }
            _ => {}
        }
    }
    loader.finish(current);
    loader.static_defaults();
    loader.resolve_aliases();
    Table {
        types: Arc::new(loader.types),
        by_name: loader.by_name,
        by_kind: loader.by_kind,
        kinds: loader.kinds,
        extensions: loader.extensions,
    }
}

#[derive(Default)]
struct Loader {
    types: Types,
    by_name: FxHashMap<&'static str, TypeId>,
    by_kind: FxHashMap<Gvk, TypeId>,
    kinds: Vec<(Gvk, TypeId)>,
    extensions: FxHashMap<TypeId, &'static str>,
    /// Anonymous types by their expression and map keys, to share them.
    anonymous: FxHashMap<(&'static str, &'static str), TypeId>,
}

impl Loader {
    fn named(&mut self, id: TypeId, mut columns: std::str::Split<'static, char>) -> Type {
        let mut next = || columns.next().unwrap_or_default();
        let (name, shape, flags, gvks, extensions) = (next(), next(), next(), next(), next());
        self.by_name.insert(name, id);
        if !extensions.is_empty() {
            self.extensions.insert(id, extensions);
        }
        for gvk in gvks.split(',').filter(|g| !g.is_empty()) {
            let mut parts = gvk.split('/');
            let key = (
                parts.next().unwrap_or_default(),
                parts.next().unwrap_or_default(),
                parts.next().unwrap_or_default(),
            );
            self.by_kind.insert(key, id);
            self.kinds.push((key, id));
        }
        let mut ty = Type::new(name, named_shape(shape));
        ty.atomic = flags.contains('a');
        ty.embedded = shape == "raw";
        ty
    }

    fn field(&mut self, mut columns: std::str::Split<'static, char>) -> Option<Field> {
        let name = columns.next()?;
        let expression = columns.next()?;
        let mut next = || columns.next().unwrap_or_default();
        let (number, flags, default, keys) = (next(), next(), next(), next());
        let (strategies, merge_key, go_type) = (next(), next(), next());
        let map_type = match flags {
            f if f.contains('a') => "atomic",
            f if f.contains('g') => "granular",
            _ => "",
        };
        let ty = self.parse_type(expression, keys, map_type)?;
        Some(Field {
            name: Text::Borrowed(name),
            ty,
            pointer: flags.contains('p'),
            always: flags.contains('e'),
            required: flags.contains('r'),
            default: if default.is_empty() { None } else { serde_json::from_str(default).ok() },
            set_default: None,
            merge: Merge {
                merge: strategies.split(',').any(|s| s == "merge"),
                replace: strategies.split(',').any(|s| s == "replace"),
                retain_keys: strategies.split(',').any(|s| s == "retainKeys"),
                key: Text::Borrowed(merge_key),
            },
            map_type: Text::Borrowed(map_type),
            number: number.split('.').filter_map(|n| n.parse().ok()).collect::<SmallVec<[u32; 3]>>(),
            go_type: Text::Borrowed(go_type),
        })
    }

    /// The type of an expression such as `[m]#12` or `{}s`; keys and map type belong to its outermost type.
    fn parse_type(
        &mut self,
        text: &'static str,
        keys: &'static str,
        map_type: &'static str,
    ) -> Option<TypeId> {
        if let Some(index) = text.strip_prefix('#') {
            let id = TypeId(index.parse().ok()?);
            return Some(if map_type.is_empty() { id } else { self.alias(text, map_type) });
        }
        let key = (text, if map_type.is_empty() { keys } else { map_type });
        if let Some(id) = self.anonymous.get(&key) {
            return Some(*id);
        }
        let shape = if let Some(rest) = text.strip_prefix('[') {
            let (marks, item) = rest.split_once(']')?;
            let kind = match marks.trim_end_matches('w') {
                "s" => ListKind::Set,
                "m" => ListKind::Map,
                _ => ListKind::Atomic,
            };
            let keys = keys.split(',').filter(|k| !k.is_empty()).map(Text::Borrowed).collect();
            let item = self.parse_type(item, "", "")?;
            let declared = !marks.trim_end_matches('w').is_empty();
            Shape::List(List { item, kind, declared, keys, wrapped: marks.contains('w') })
        } else if let Some(value) = text.strip_prefix("{}") {
            Shape::Map(self.parse_type(value, "", "")?)
        } else {
            scalar(text)?
        };
        let mut ty = Type::new("", shape);
        ty.atomic = map_type == "atomic";
        let id = self.types.push(ty);
        self.anonymous.insert(key, id);
        Some(id)
    }

    /// A named type with another rule of ownership. A place is kept for it; [`Loader::resolve_aliases`] fills it
    /// once every named type is read.
    fn alias(&mut self, text: &'static str, map_type: &'static str) -> TypeId {
        if let Some(found) = self.anonymous.get(&(text, map_type)) {
            return *found;
        }
        let alias = self.types.push(Type::new("", Shape::Json));
        self.anonymous.insert((text, map_type), alias);
        alias
    }

    fn resolve_aliases(&mut self) {
        for ((text, map_type), alias) in &self.anonymous {
            if let Some(target) = text.strip_prefix('#').and_then(|n| n.parse::<usize>().ok()) {
                let mut copy = self.types.nodes[target].clone();
                copy.atomic = *map_type == "atomic";
                self.types.nodes[alias.0 as usize] = copy;
            }
        }
    }

    fn finish(&mut self, done: Option<(TypeId, Type)>) {
        let Some((id, mut ty)) = done else { return };
        if let Shape::Struct(s) = &mut ty.shape {
            s.fields.sort_by(|a, b| a.name.cmp(&b.name));
            s.wire = wire_of(&s.fields, 0, |_| true);
        }
        let schema_props =
            self.by_name.get("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps");
        if let (Shape::SchemaOrArray(t) | Shape::SchemaOrBool(t) | Shape::SchemaOrStrings(t), Some(props)) =
            (&mut ty.shape, schema_props)
        {
            *t = *props;
        }
        self.types.nodes[id.0 as usize] = ty;
    }

    /// Adds the defaults of upstream's defaulting functions; before the aliases are resolved, which copy them.
    fn static_defaults(&mut self) {
        for line in STATIC_DEFAULTS.lines().filter(|l| !l.starts_with('#')) {
            let mut columns = line.split('\t');
            let (Some(ty), Some(field), Some(json), mode) =
                (columns.next(), columns.next(), columns.next(), columns.next())
            else {
                continue;
            };
            let full = format!("io.k8s.api.{ty}");
            let by_name: &FxHashMap<&str, TypeId> = &self.by_name;
            let Some(id) = by_name.get(full.as_str()).or_else(|| by_name.get(ty)).copied() else { continue };
            let Ok(value) = serde_json::from_str::<Value>(json) else { continue };
            if let Shape::Struct(s) = &mut self.types.nodes[id.0 as usize].shape
                && let Some(index) = s.index_of(field)
            {
                s.fields[index].set_default =
                    Some(SetDefault { value, zero_is_absent: mode == Some("zero") });
            }
        }
    }
}

fn named_shape(kind: &str) -> Shape {
    match kind {
        "quantity" => Shape::Quantity,
        "intorstring" => Shape::IntOrString,
        "time" => Shape::Time,
        "microtime" => Shape::MicroTime,
        "raw" => Shape::Raw,
        "fieldsv1" => Shape::FieldsV1,
        "json" => Shape::Json,
        "orarray" => Shape::SchemaOrArray(TypeId(0)),
        "orbool" => Shape::SchemaOrBool(TypeId(0)),
        "orstrings" => Shape::SchemaOrStrings(TypeId(0)),
        _ => Shape::Struct(Struct::default()),
    }
}

fn scalar(text: &str) -> Option<Shape> {
    Some(match text {
        "s" => Shape::String,
        "b" => Shape::Bytes,
        "B" => Shape::Bool,
        "i" => Shape::Int32,
        "l" => Shape::Int64,
        "d" => Shape::Double,
        _ => return None,
    })
}

/// The message layout of the fields that share the path `number[..depth]`.
fn wire_of(fields: &[Field], depth: usize, belongs: impl Fn(&Field) -> bool) -> Vec<WireField> {
    let mut out: Vec<WireField> = Vec::new();
    for (index, field) in fields.iter().enumerate().filter(|(_, f)| belongs(f)) {
        let Some(&number) = field.number.get(depth) else { continue };
        if out.iter().any(|w| w.number == number) {
            continue;
        }
        let target = if field.number.len() == depth + 1 {
            WireTarget::Field(u32::try_from(index).unwrap_or(u32::MAX))
        } else {
            let prefix = &field.number[..=depth];
            WireTarget::Nested(nested_wire(fields, depth + 1, prefix))
        };
        out.push(WireField { number, target });
    }
    out.sort_by_key(|w| w.number);
    out
}

/// Breaks the recursion of generic closures: one concrete predicate type a level.
fn nested_wire(fields: &[Field], depth: usize, prefix: &[u32]) -> Vec<WireField> {
    let belongs: Box<dyn Fn(&Field) -> bool + '_> = Box::new(|f: &Field| f.number.starts_with(prefix));
    wire_of(fields, depth, belongs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_read() {
        let fields: usize = builtins().nodes[..TYPES.lines().filter(|l| l.starts_with('T')).count()]
            .iter()
            .filter_map(Type::as_struct)
            .map(|s| s.fields.len())
            .sum();
        assert_eq!(fields, TYPES.lines().filter(|l| l.starts_with('F')).count());
        assert!(builtins().nodes.iter().all(|t| !matches!(&t.shape, Shape::SchemaOrBool(id) if id.0 == 0)));
    }

    #[test]
    fn every_static_default_lands() {
        let rows = STATIC_DEFAULTS.lines().filter(|l| !l.starts_with('#') && !l.is_empty());
        for line in rows {
            let columns: Vec<&str> = line.split('\t').collect();
            let schema = definition(&format!("io.k8s.api.{}", columns[0])).or_else(|| definition(columns[0]));
            let field = schema.as_ref().and_then(|s| s.root().as_struct()).and_then(|s| s.field(columns[1]));
            assert!(field.is_some_and(|f| f.set_default.is_some()), "{line}");
        }
    }

    #[test]
    fn lookups() {
        let pod = for_kind("", "v1", "Pod").unwrap();
        let ports = pod.field(&["spec", "containers"]).unwrap();
        let Shape::List(list) = &ports.root().shape else { panic!("a list") };
        assert_eq!((list.kind, list.keys.as_slice()), (ListKind::Map, &[Text::Borrowed("name")][..]));
        let container = ports.types.get(list.item).as_struct().unwrap();
        assert_eq!(container.field("ports").unwrap().merge.key, "containerPort");
        let volume = definition("io.k8s.api.core.v1.Volume").unwrap();
        assert!(
            volume
                .root()
                .as_struct()
                .unwrap()
                .wire
                .iter()
                .any(|w| matches!(&w.target, WireTarget::Nested(n) if n.len() > 20))
        );
        assert!(for_kind("", "v1", "Nope").is_none());

        let reference = definition("io.k8s.api.core.v1.ObjectReference").unwrap();
        let claim =
            definition("io.k8s.api.core.v1.PersistentVolumeSpec").unwrap().field(&["claimRef"]).unwrap();
        assert!(reference.root().atomic && !claim.root().atomic, "a claimRef is merged field by field");
    }
}
