//! Tables for `kubectl get`: columns and cells of every kind.
//!
//! [`columns`] lists the columns of built-in kinds with a small function a cell; [`cells`] and [`pods`] hold the
//! functions; custom kinds have JSON paths. Pure but for the clock that ages are counted from, which is passed in.

pub mod cells;
pub mod columns;
pub mod custom;
pub mod parts;
pub mod pods;
pub mod workloads;

use std::borrow::Cow;

use jiff::Timestamp;
use machinery::status::StatusError;
use serde_json::{Value, json};

use crate::registry::kind::Kind;

/// How much of the object each row carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    None,
    #[default]
    Metadata,
    Object,
}

impl IncludeObject {
    /// From the `includeObject` parameter.
    pub fn parse(text: Option<&str>) -> Result<Self, StatusError> {
        match text {
            None | Some("Metadata") => Ok(Self::Metadata),
            Some("None") => Ok(Self::None),
            Some("Object") => Ok(Self::Object),
            Some(other) => {
                Err(StatusError::bad_request(format!("unrecognized includeObject value: {other:?}")))
            }
        }
    }
}

/// A column as the wire has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: Cow<'static, str>,
    pub type_name: Cow<'static, str>,
    pub format: Cow<'static, str>,
    pub description: Cow<'static, str>,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: i64,
}

impl Column {
    fn to_value(&self) -> Value {
        json!({
            "name": self.name,
            "type": self.type_name,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        })
    }
}

/// The table of some objects of one kind, at the version of the request.
pub fn of<'a>(
    kind: &Kind,
    objects: impl Iterator<Item = Cow<'a, Value>>,
    include: IncludeObject,
    with_columns: bool,
) -> Value {
    let now = Timestamp::now();
    let (columns, rows) = match &kind.custom {
        Some(custom) => {
            let printer = custom::Printer::new(&custom.columns);
            let rows: Vec<Value> = objects.map(|o| row(printer.cells(&o, now), None, o, include)).collect();
            (printer.columns(), rows)
        }
        None => {
            let printer = columns::find(&kind.group, &kind.resource);
            let rows: Vec<Value> = objects
                .map(|o| {
                    let conditions = columns::row_conditions(&kind.group, &kind.resource, &o);
                    row(printer.cells(&o, now), conditions, o, include)
                })
                .collect();
            (printer.columns(), rows)
        }
    };
    let columns: Vec<Value> = columns.iter().map(Column::to_value).collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {},
        "columnDefinitions": if with_columns { Value::from(columns) } else { Value::Null },
        "rows": rows,
    })
}

fn row(
    cells: Vec<Value>,
    conditions: Option<Value>,
    object: Cow<'_, Value>,
    include: IncludeObject,
) -> Value {
    let mut row = json!({"cells": cells});
    if let Some(conditions) = conditions {
        row["conditions"] = conditions;
    }
    match include {
        IncludeObject::None => {}
        IncludeObject::Object => row["object"] = object.into_owned(),
        IncludeObject::Metadata => {
            row["object"] = json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": object["metadata"],
            });
        }
    }
    row
}
