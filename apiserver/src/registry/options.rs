//! Options of writes and reads, from the query string or a DeleteOptions body, checked as upstream checks them. Pure.

use std::collections::BTreeMap;

use machinery::status::{FieldError, StatusError};
use serde_json::{Value, json};

/// A decoded query string. Repeated parameters keep their order; most options use the first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(BTreeMap<String, Vec<String>>);

impl Query {
    /// Decodes `a=b&c=d`.
    pub fn parse(text: &str) -> Self {
        let mut map: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (key, value) in url::form_urlencoded::parse(text.as_bytes()) {
            map.entry(key.into_owned()).or_default().push(value.into_owned());
        }
        Self(map)
    }

    /// The first value; empty values count as absent.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.first().map(String::as_str).filter(|v| !v.is_empty())
    }

    pub fn all(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// A boolean as upstream's conversion reads it: anything but `false` and `0` is true.
    pub fn flag(&self, name: &str) -> bool {
        self.0
            .get(name)
            .and_then(|v| v.first())
            .is_some_and(|v| !matches!(v.to_lowercase().as_str(), "false" | "0"))
    }

    /// A whole number, or a 400.
    pub fn number(&self, name: &str) -> Result<Option<i64>, StatusError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let parsed = text.parse().map_err(|_| {
            StatusError::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))
        })?;
        Ok(Some(parsed))
    }
}

/// What to do about unknown and duplicate fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// Options of a create, update or patch.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    pub dry_run: bool,
    /// Who owns the fields written: `fieldManager`, or the user agent up to the first slash.
    pub manager: String,
    pub field_validation: FieldValidation,
    /// Apply takes fields from other managers.
    pub force: bool,
    /// The manager was named by the request, which apply demands.
    pub manager_is_explicit: bool,
}

/// The longest field manager (upstream `FieldManagerMaxLength`).
const MANAGER_LEN_MAX: usize = 128;

impl WriteOptions {
    /// From the query of a write; `options_kind` is `CreateOptions`, `UpdateOptions` or `PatchOptions`.
    pub fn from_query(query: &Query, user_agent: &str, options_kind: &str) -> Result<Self, StatusError> {
        let mut errors = Vec::new();
        let dry_run = dry_run(query.all("dryRun"), &mut errors);
        let explicit = query.get("fieldManager");
        if let Some(manager) = explicit {
            check_manager(manager, &mut errors);
        }
        let field_validation = match query.get("fieldValidation") {
            None | Some("Warn") => FieldValidation::Warn,
            Some("Ignore") => FieldValidation::Ignore,
            Some("Strict") => FieldValidation::Strict,
            Some(other) => {
                let valid = ["Ignore", "Strict", "Warn"];
                errors.push(FieldError::not_supported(&"fieldValidation", other, &valid));
                FieldValidation::Warn
            }
        };
        if !errors.is_empty() {
            return Err(StatusError::invalid("meta.k8s.io", options_kind, "", errors));
        }
        Ok(Self {
            dry_run,
            manager: explicit.map_or_else(|| manager_of_agent(user_agent), str::to_owned),
            manager_is_explicit: explicit.is_some(),
            field_validation,
            force: query.flag("force"),
        })
    }

    /// The options object as admission sees it.
    pub fn to_value(&self, options_kind: &str) -> Value {
        let mut value =
            json!({"kind": options_kind, "apiVersion": "meta.k8s.io/v1", "fieldManager": self.manager});
        if self.dry_run {
            value["dryRun"] = json!(["All"]);
        }
        value
    }
}

fn dry_run(values: &[String], errors: &mut Vec<FieldError>) -> bool {
    for value in values.iter().filter(|v| v.as_str() != "All" && !v.is_empty()) {
        errors.push(FieldError::not_supported(&"dryRun", value.as_str(), &["All"]));
    }
    values.iter().any(|v| v == "All")
}

fn check_manager(manager: &str, errors: &mut Vec<FieldError>) {
    if manager.len() > MANAGER_LEN_MAX {
        errors.push(FieldError::too_long(&"fieldManager", manager, MANAGER_LEN_MAX));
    }
    if let Some((i, _)) = manager.char_indices().find(|(_, c)| c.is_control()) {
        let why = format!("should only contain printable characters (found non-printable at {i})");
        errors.push(FieldError::invalid(&"fieldManager", manager, why));
    }
}

/// The manager for requests that name none.
pub fn manager_of_agent(user_agent: &str) -> String {
    let name = user_agent.split('/').next().unwrap_or_default();
    let printable: String = name.chars().filter(|c| !c.is_control()).take(MANAGER_LEN_MAX).collect();
    if printable.is_empty() { "unknown".to_owned() } else { printable }
}

/// What happens to dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// Options of a delete.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    pub dry_run: bool,
    pub grace_period_secs: Option<i64>,
    pub propagation: Option<Propagation>,
    pub precondition_uid: Option<String>,
    pub precondition_revision: Option<String>,
    pub ignore_store_read_error: bool,
}

impl DeleteOptions {
    /// From the query and the body; the body wins where there is one.
    pub fn parse(query: &Query, body: Option<&Value>) -> Result<Self, StatusError> {
        let from_query = || -> Result<Value, StatusError> {
            let mut value = json!({});
            if let Some(grace) = query.number("gracePeriodSeconds")? {
                value["gracePeriodSeconds"] = grace.into();
            }
            if let Some(policy) = query.get("propagationPolicy") {
                value["propagationPolicy"] = policy.into();
            }
            if query.has("orphanDependents") {
                value["orphanDependents"] = query.flag("orphanDependents").into();
            }
            if !query.all("dryRun").is_empty() {
                value["dryRun"] = query.all("dryRun").into();
            }
            Ok(value)
        };
        match body {
            Some(body) => Self::from_value(body),
            None => Self::from_value(&from_query()?),
        }
    }

    fn from_value(value: &Value) -> Result<Self, StatusError> {
        let mut errors = Vec::new();
        let dry: Vec<String> = value["dryRun"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        let orphan = value["orphanDependents"].as_bool();
        let policy = value["propagationPolicy"].as_str().filter(|p| !p.is_empty());
        if orphan.is_some() && policy.is_some() {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            errors.push(FieldError::invalid(&"propagationPolicy", policy.unwrap_or_default(), why));
        }
        let propagation = match (policy, orphan) {
            (Some("Background"), _) => Some(Propagation::Background),
            (Some("Foreground"), _) => Some(Propagation::Foreground),
            (Some("Orphan"), _) => Some(Propagation::Orphan),
            (Some(other), _) => {
                let valid = ["Foreground", "Background", "Orphan", "nil"];
                errors.push(FieldError::not_supported(&"propagationPolicy", other, &valid));
                None
            }
            (None, Some(true)) => Some(Propagation::Orphan),
            (None, Some(false)) => Some(Propagation::Background),
            (None, None) => None,
        };
        let dry_run = dry_run(&dry, &mut errors);
        if !errors.is_empty() {
            return Err(StatusError::invalid("meta.k8s.io", "DeleteOptions", "", errors));
        }
        let precondition = |name: &str| value["preconditions"][name].as_str().map(str::to_owned);
        Ok(Self {
            dry_run,
            grace_period_secs: value["gracePeriodSeconds"].as_i64(),
            propagation,
            precondition_uid: precondition("uid"),
            precondition_revision: precondition("resourceVersion"),
            ignore_store_read_error: value["ignoreStoreReadErrorWithClusterBreakingPotential"] == true,
        })
    }

    /// The options object as admission sees it.
    pub fn to_value(&self) -> Value {
        let mut value = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"});
        if let Some(grace) = self.grace_period_secs {
            value["gracePeriodSeconds"] = grace.into();
        }
        if let Some(policy) = self.propagation {
            value["propagationPolicy"] = format!("{policy:?}").into();
        }
        if self.dry_run {
            value["dryRun"] = json!(["All"]);
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_options_are_invalid_with_upstreams_words() {
        let query = Query::parse("dryRun=Some&fieldValidation=X");
        let error = WriteOptions::from_query(&query, "kubectl/v1", "CreateOptions").expect_err("invalid");
        assert_eq!(error.code(), 422);
        assert!(
            error.message().contains(r#"dryRun: Unsupported value: "Some": supported values: "All""#),
            "{error}"
        );
    }

    #[test]
    fn manager_comes_from_the_agent() {
        let options = WriteOptions::from_query(&Query::parse(""), "kubectl/v1.36 (linux)", "CreateOptions")
            .expect("ok");
        assert_eq!((options.manager.as_str(), options.manager_is_explicit), ("kubectl", false));
    }

    #[test]
    fn delete_options_come_from_the_body_or_the_query() {
        let body =
            json!({"propagationPolicy":"Foreground","gracePeriodSeconds":0,"preconditions":{"uid":"u"}});
        let options = DeleteOptions::parse(&Query::parse("gracePeriodSeconds=9"), Some(&body)).expect("ok");
        assert_eq!(options.propagation, Some(Propagation::Foreground));
        assert_eq!((options.grace_period_secs, options.precondition_uid.as_deref()), (Some(0), Some("u")));
        let query = Query::parse("orphanDependents=true&dryRun=All");
        let options = DeleteOptions::parse(&query, None).expect("ok");
        assert_eq!((options.propagation, options.dry_run), (Some(Propagation::Orphan), true));
    }
}
