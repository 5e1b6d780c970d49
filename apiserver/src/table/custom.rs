//! Columns of custom resources: JSON paths from `additionalPrinterColumns`.

use std::borrow::Cow;

use jiff::Timestamp;
use machinery::jsonpath::Path;
use serde_json::Value;

use super::{Column, cells};
use crate::registry::kind;

/// The compiled columns of one custom kind.
pub struct Printer<'a> {
    columns: Vec<(&'a kind::Column, Option<Path>)>,
}

impl<'a> Printer<'a> {
    pub fn new(columns: &'a [kind::Column]) -> Self {
        let compile = |c: &'a kind::Column| (c, Path::parse(&format!("{{{}}}", c.json_path)).ok());
        Self { columns: columns.iter().map(compile).collect() }
    }

    pub fn columns(&self) -> Vec<Column> {
        let name = Column {
            name: "Name".into(),
            type_name: "string".into(),
            format: "name".into(),
            description: cells::NAME_DESCRIPTION.into(),
            priority: 0,
        };
        let custom = self.columns.iter().map(|(c, _)| Column {
            name: Cow::Owned(c.name.clone()),
            type_name: Cow::Owned(c.type_name.clone()),
            format: Cow::Owned(c.format.clone()),
            description: Cow::Owned(c.description.clone()),
            priority: c.priority,
        });
        std::iter::once(name).chain(custom).collect()
    }

    pub fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let name = object["metadata"]["name"].clone();
        let custom = self.columns.iter().map(|(column, path)| {
            let found = path.as_ref().map(|p| p.eval(object)).unwrap_or_default();
            cell(column, &found, now)
        });
        std::iter::once(name).chain(custom).collect()
    }
}

fn cell(column: &kind::Column, found: &[&Value], now: Timestamp) -> Value {
    let Some(first) = found.first() else { return Value::Null };
    match column.type_name.as_str() {
        "integer" => {
            first.as_i64().or_else(|| first.as_f64().map(|f| f as i64)).map_or(Value::Null, Value::from)
        }
        "number" => first.as_f64().map_or(Value::Null, Value::from),
        "boolean" => first.as_bool().map_or(Value::Null, Value::from),
        "date" => first.as_str().map_or(Value::Null, |t| cells::age_of(t, now).into()),
        _ if found.len() > 1 => {
            Value::from(Value::from(found.iter().map(|v| (*v).clone()).collect::<Vec<_>>()).to_string())
        }
        _ => match first {
            Value::String(text) => Value::from(text.as_str()),
            Value::Null => Value::Null,
            other => Value::from(other.to_string()),
        },
    }
}
