//! Validation rules that are data: one table, one engine.
//!
//! `tables/rules.tsv` gives rules to fields of schema types; the engine walks an object along its schema and checks
//! each field it meets, so that a rule on `Container` holds in every pod, template and job. What the table cannot
//! say (rules between fields, updates) is code next to it. Rows are read once; subtrees without rules are skipped.

use std::sync::OnceLock;

use machinery::names;
use machinery::schema::{self, Schema, Shape, TypeId, Types};
use machinery::status::FieldError;
use rustc_hash::FxHashMap;
use serde_json::Value;

use super::at::At;
use super::checks;

static TABLE: &str = include_str!("../../tables/rules.tsv");

const FILE_MODE_MAX: i64 = 0o777;
const FILE_MODE_DETAIL: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// One row of the table.
#[derive(Clone, Debug, PartialEq)]
struct Rule {
    field: &'static str,
    check: Check,
}

/// What a row demands.
#[derive(Clone, Debug, PartialEq)]
enum Check {
    /// There and not zero; the detail of the error.
    Required(&'static str),
    /// One of these when not zero.
    Enum(Vec<&'static str>),
    /// One of these; absence is a value that is not supported either.
    EnumAlways(Vec<&'static str>),
    /// At least 0.
    NonNegative,
    /// More than 0; the detail of the error where it is not the usual one.
    Positive(&'static str),
    /// Within both bounds.
    Range(i64, i64),
    /// Names by a rule of their own when not empty.
    Name(&'static str),
    /// Names by a rule of their own; an empty one is wrong too.
    NameAlways(&'static str),
    /// A port number when not zero.
    Port,
    /// A port number or name.
    PortOrName,
    /// The bits of a file's mode.
    Mode,
    /// From 1 to 100.
    Weight,
    /// An IP address.
    Ip,
    /// A label map.
    Labels,
    /// A label selector.
    Selector,
    /// The named member of the list's items is unique.
    Unique(&'static str),
    /// At most so many characters.
    MaxLength(usize),
}

struct Compiled {
    rules: FxHashMap<TypeId, Vec<Rule>>,
    /// Types below which (or in which) a rule stands.
    reaches: Vec<bool>,
}

/// Everything in the object that breaks a rule of the table. Objects of unknown kinds break none.
pub fn check(group: &str, version: &str, kind: &str, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if let Some(schema) = schema::for_kind(group, version, kind) {
        walk(compiled(), &schema.types, schema.root, &At::root(object), &mut errors);
    }
    errors
}

/// As [`check`], for a part of an object whose schema type is known by name.
pub fn check_part(definition: &str, part: &At<'_, '_>, errors: &mut Vec<FieldError>) {
    if let Some(schema) = schema::definition(definition) {
        walk(compiled(), &schema.types, schema.root, part, errors);
    }
}

fn compiled() -> &'static Compiled {
    static COMPILED: OnceLock<Compiled> = OnceLock::new();
    COMPILED.get_or_init(|| {
        let mut rules: FxHashMap<TypeId, Vec<Rule>> = FxHashMap::default();
        let mut types = None;
        for (definition, rule) in TABLE.lines().filter_map(parse) {
            let Some(schema) = schema::definition(&format!("io.k8s.api.{definition}")) else { continue };
            rules.entry(schema.root).or_default().push(rule);
            types = Some(schema);
        }
        let reaches = types.map(|schema: Schema| reaching(&schema.types, &rules)).unwrap_or_default();
        Compiled { rules, reaches }
    })
}

/// Reads one row; comments and rows that do not parse give none (a test holds every row to its type).
fn parse(line: &'static str) -> Option<(&'static str, Rule)> {
    if line.starts_with('#') {
        return None;
    }
    let mut columns = line.split('\t');
    let (definition, field, rule) = (columns.next()?, columns.next()?, columns.next()?);
    let argument = columns.next().unwrap_or_default();
    let list = || argument.split('|').collect::<Vec<_>>();
    let check = match rule {
        "required" => Check::Required(argument),
        "enum" => Check::Enum(list()),
        "enum!" => Check::EnumAlways(list()),
        "nonnegative" => Check::NonNegative,
        "positive" => Check::Positive(argument),
        "range" => {
            let (low, high) = argument.split_once("..")?;
            Check::Range(low.parse().ok()?, high.parse().ok()?)
        }
        "name" => Check::Name(argument),
        "name!" => Check::NameAlways(argument),
        "port" => Check::Port,
        "portorname" => Check::PortOrName,
        "mode" => Check::Mode,
        "weight" => Check::Weight,
        "ip" => Check::Ip,
        "labels" => Check::Labels,
        "selector" => Check::Selector,
        "unique" => Check::Unique(argument),
        "maxlength" => Check::MaxLength(argument.parse().ok()?),
        _ => return None,
    };
    Some((definition, Rule { field, check }))
}

/// Marks every type from which a type with rules can be reached.
fn reaching(types: &Types, rules: &FxHashMap<TypeId, Vec<Rule>>) -> Vec<bool> {
    let count = (0u32..).take_while(|id| has_type(types, *id)).count();
    let mut marks: Vec<bool> = (0..count).map(|id| rules.contains_key(&TypeId(id as u32))).collect();
    loop {
        let before = marks.clone();
        for (id, mark) in marks.iter_mut().enumerate() {
            *mark |= children(types, TypeId(id as u32)).iter().any(|child| before[child.0 as usize]);
        }
        if marks == before {
            return marks;
        }
    }
}

fn has_type(types: &Types, id: u32) -> bool {
    (id as usize) < types.len()
}

fn children(types: &Types, id: TypeId) -> Vec<TypeId> {
    match &types.get(id).shape {
        Shape::Struct(fields) => fields.fields.iter().map(|field| field.ty).collect(),
        Shape::Map(value) => vec![*value],
        Shape::List(list) => vec![list.item],
        _ => Vec::new(),
    }
}

fn walk(compiled: &Compiled, types: &Types, id: TypeId, at: &At<'_, '_>, errors: &mut Vec<FieldError>) {
    if !compiled.reaches.get(id.0 as usize).copied().unwrap_or_default() || !at.is_set() {
        return;
    }
    match &types.get(id).shape {
        Shape::Struct(fields) => {
            for rule in compiled.rules.get(&id).into_iter().flatten() {
                apply(&rule.check, &at.get(rule.field), errors);
            }
            for field in &fields.fields {
                walk(compiled, types, field.ty, &at.get(&field.name), errors);
            }
        }
        Shape::Map(value) => {
            at.entries().for_each(|(_, entry)| walk(compiled, types, *value, &entry, errors))
        }
        Shape::List(list) => at.items().for_each(|item| walk(compiled, types, list.item, &item, errors)),
        _ => {}
    }
}

fn apply(check: &Check, at: &At<'_, '_>, errors: &mut Vec<FieldError>) {
    match check {
        Check::Required(detail) if !at.has() => errors.push(FieldError::required(at, *detail)),
        Check::Enum(values) if at.has() && !values.contains(&at.text()) => {
            errors.push(FieldError::not_supported(at, at.value.clone(), values));
        }
        Check::EnumAlways(values) if !values.contains(&at.text()) => {
            errors.push(FieldError::not_supported(at, at.text(), values));
        }
        Check::NonNegative => errors.extend(checks::non_negative(at)),
        Check::Positive("") => errors.extend(checks::positive(at)),
        Check::Positive(detail) => {
            let error =
                checks::positive(at).map(|error| FieldError { detail: (*detail).to_owned(), ..error });
            errors.extend(error);
        }
        Check::Range(low, high) => {
            let number = at.int().filter(|number| !(*low..=*high).contains(number));
            errors.extend(
                number.map(|n| FieldError::invalid(at, n, names::inclusive_range_error(*low, *high))),
            );
        }
        Check::Name(rule) if at.has() => errors.extend(checks::named(rule, at)),
        Check::NameAlways(rule) => errors.extend(checks::named(rule, &at.with(&Value::from(at.text())))),
        Check::Port if at.has() => errors.extend(checks::port_number(at)),
        Check::PortOrName => errors.extend(checks::port_number_or_name(at)),
        Check::Mode => errors.extend(out_of_range(at, 0, FILE_MODE_MAX, FILE_MODE_DETAIL)),
        Check::Weight => errors.extend(out_of_range(at, 1, 100, "must be in the range 1-100")),
        Check::Ip if at.has() => errors.extend(checks::ip(at)),
        Check::Labels => errors.extend(checks::labels(at)),
        Check::Selector if at.is_set() => errors.extend(checks::label_selector(at)),
        Check::Unique(key) => errors.extend(checks::unique(at, key)),
        Check::MaxLength(max) if at.text().chars().count() > *max => {
            errors.push(FieldError::too_long(at, "", *max));
        }
        _ => {}
    }
}

fn out_of_range(at: &At<'_, '_>, low: i64, high: i64, detail: &str) -> Option<FieldError> {
    let number = at.int().filter(|number| !(low..=high).contains(number))?;
    Some(FieldError::invalid(at, number, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_names_a_type_and_a_field() {
        for line in TABLE.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let (definition, rule) = parse(line).unwrap_or_else(|| panic!("row does not parse: {line}"));
            let schema = schema::definition(&format!("io.k8s.api.{definition}"));
            let schema = schema.unwrap_or_else(|| panic!("no such type: {line}"));
            assert!(schema.field(&[rule.field]).is_some(), "no such field: {line}");
            if let Check::Name(name) | Check::NameAlways(name) = rule.check {
                assert!(checks::is_name_rule(name), "no such name rule: {line}");
            }
        }
    }
}
