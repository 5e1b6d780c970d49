//! Label and field selectors of a request as the cache's filter.

use machinery::selector::{Fields, Labels, Operator};
use machinery::status::StatusError;

use super::facts::{field_alias, unknown_field};
use super::kind::Kind;
use crate::cache::Filter;
use crate::cache::filter::{FieldRef, FieldRequirement, LabelRequirement};

/// Builds the filter of a list, watch or deletecollection.
pub fn filter(
    kind: &Kind,
    namespace: &str,
    name: &str,
    label_selector: Option<&str>,
    field_selector: Option<&str>,
) -> Result<Filter, StatusError> {
    let labels = label_selector.map(labels).transpose()?.unwrap_or_default();
    let fields = field_selector.map(|text| fields(kind, text)).transpose()?.unwrap_or_default();
    Ok(Filter {
        namespace: Some(namespace.to_owned()).filter(|n| kind.namespaced && !n.is_empty()),
        name: Some(name.to_owned()).filter(|n| !n.is_empty()),
        labels,
        fields,
    })
}

fn labels(text: &str) -> Result<Vec<LabelRequirement>, StatusError> {
    let parsed = Labels::parse(text).map_err(StatusError::bad_request)?;
    let requirement = |r: &machinery::selector::Requirement| {
        let (key, values) = (r.key.clone(), r.values.clone());
        let number = || values.first().and_then(|v| v.parse().ok()).unwrap_or(0);
        match r.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => LabelRequirement::In(key, values),
            Operator::NotIn | Operator::NotEquals => LabelRequirement::NotIn(key, values),
            Operator::Exists => LabelRequirement::Exists(key),
            Operator::DoesNotExist => LabelRequirement::NotExists(key),
            Operator::GreaterThan => LabelRequirement::GreaterThan(key, number()),
            Operator::LessThan => LabelRequirement::LessThan(key, number()),
        }
    };
    Ok(parsed.requirements().iter().map(requirement).collect())
}

fn fields(kind: &Kind, text: &str) -> Result<Vec<FieldRequirement>, StatusError> {
    let parsed = Fields::parse(text).map_err(StatusError::bad_request)?;
    let requirement = |r: &machinery::selector::FieldRequirement| {
        let field = field_ref(kind, &r.field)?;
        Ok(FieldRequirement { field, equals: r.equals, value: r.value.clone() })
    };
    parsed.requirements().iter().map(requirement).collect()
}

fn field_ref(kind: &Kind, field: &str) -> Result<FieldRef, StatusError> {
    match field {
        "metadata.name" => return Ok(FieldRef::Name),
        "metadata.namespace" if kind.namespaced => return Ok(FieldRef::Namespace),
        _ => {}
    }
    let alias = field_alias(&kind.group, &kind.resource, field);
    let wanted = alias.as_deref().unwrap_or(field);
    let known = kind.storage.as_ref().and_then(|s| s.cache.spec.fields.iter().position(|f| f.name == wanted));
    known.map(FieldRef::Slot).ok_or_else(|| {
        StatusError::bad_request(unknown_field(kind.error_group(), &kind.resource, kind.is_custom(), field))
    })
}
