//! Which names a definition gets, and the conditions that say so. Pure.
//!
//! Source: apiextensions `controller/status/naming_controller.go`.

use jiff::Timestamp;
use machinery::time::format_time;
use serde_json::{Value, json};

/// The outcome for one definition.
#[derive(Clone, Debug, PartialEq)]
pub struct Names {
    /// All names are its own: it can be served.
    pub accepted: bool,
    accepted_names: Value,
    reason: &'static str,
    message: String,
}

const PARTS: [(&str, &str, bool); 4] = [
    ("plural", "PluralConflict", false),
    ("singular", "SingularConflict", false),
    ("kind", "KindConflict", true),
    ("listKind", "ListKindConflict", true),
];

/// Decides about `definition`, given the others of its group.
pub fn decide<'a>(definition: &Value, others: impl Iterator<Item = &'a Value>) -> Names {
    let (mut resources, mut kinds) = (Vec::new(), Vec::new());
    for other in others {
        let names = &other["status"]["acceptedNames"];
        let text = |field: &str| names[field].as_str().unwrap_or_default().to_owned();
        resources.extend([text("plural"), text("singular")]);
        resources.extend(words(&names["shortNames"]));
        kinds.extend([text("kind"), text("listKind")]);
    }
    let wanted = &definition["spec"]["names"];
    let mut accepted = definition["status"]["acceptedNames"].clone();
    if !accepted.is_object() {
        accepted = json!({"plural": "", "kind": ""});
    }
    let (mut reason, mut message) = ("NoConflicts", "no conflicts found".to_owned());
    let mut conflict = |why: &'static str, text: String| {
        reason = why;
        message = text;
    };
    for (field, why, is_kind) in PARTS {
        let name = wanted[field].as_str().unwrap_or_default();
        let taken = if is_kind { &kinds } else { &resources };
        if accepted[field] != name && taken.iter().any(|t| t == name) {
            conflict(why, format!("{name:?} is already in use"));
        } else if !name.is_empty() {
            accepted[field] = name.into();
        }
    }
    let own = words(&accepted["shortNames"]);
    let clash = words(&wanted["shortNames"]).into_iter().find(|s| !own.contains(s) && resources.contains(s));
    match clash {
        Some(name) => conflict("ShortNamesConflict", format!("{name:?} is already in use")),
        None => copy(&mut accepted, wanted, "shortNames"),
    }
    copy(&mut accepted, wanted, "categories");
    Names { accepted: reason == "NoConflicts", accepted_names: accepted, reason, message }
}

fn words(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn copy(to: &mut Value, from: &Value, field: &str) {
    match from.get(field).filter(|v| v.as_array().is_some_and(|a| !a.is_empty())) {
        Some(value) => to[field] = value.clone(),
        None => {
            to.as_object_mut().map(|m| m.remove(field));
        }
    }
}

impl Names {
    /// Writes names and conditions into the definition's status.
    pub fn write_into(&self, definition: &mut Value, now: Timestamp) {
        definition["status"]["acceptedNames"] = self.accepted_names.clone();
        let status = if self.accepted { "True" } else { "False" };
        set_condition(definition, "NamesAccepted", status, self.reason, &self.message, now);
        let was = condition(definition, "Established").is_some_and(|c| c["status"] == "True");
        if was {
            return;
        }
        if self.accepted {
            let message = "the initial names have been accepted";
            set_condition(definition, "Established", "True", "InitialNamesAccepted", message, now);
        } else {
            let message = "not all names are accepted";
            set_condition(definition, "Established", "False", "NotAccepted", message, now);
        }
    }
}

/// Whether the definition's status says that its names are its own.
pub fn are_accepted(definition: &Value) -> bool {
    condition(definition, "NamesAccepted").is_some_and(|c| c["status"] == "True")
}

fn condition<'a>(definition: &'a Value, condition_type: &str) -> Option<&'a Value> {
    definition["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == condition_type)
}

/// Sets a condition; the transition time moves only when its status does.
pub fn set_condition(
    definition: &mut Value,
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let old = condition(definition, kind).cloned();
    let since = match &old {
        Some(old) if old["status"] == status => old["lastTransitionTime"].clone(),
        _ => format_time(now).into(),
    };
    let new = json!({
        "type": kind, "status": status, "lastTransitionTime": since, "reason": reason, "message": message,
    });
    if !definition["status"]["conditions"].is_array() {
        definition["status"]["conditions"] = json!([]);
    }
    let Some(conditions) = definition["status"]["conditions"].as_array_mut() else { return };
    match conditions.iter_mut().find(|c| c["type"] == kind) {
        Some(slot) => *slot = new,
        None => conditions.push(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(plural: &str, kind: &str, accepted: bool) -> Value {
        let names = json!({"plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List")});
        let mut value = json!({"metadata":{"name":plural},"spec":{"group":"g","names":names.clone()}});
        if accepted {
            value["status"] = json!({"acceptedNames": names});
        }
        value
    }

    #[test]
    fn the_first_keeps_its_names() {
        let first = definition("foos", "Foo", true);
        let second = definition("bars", "Foo", false);
        let names = decide(&second, [&first].into_iter());
        assert!(!names.accepted);
        assert_eq!(names.reason, "ListKindConflict");
        assert!(decide(&second, std::iter::empty()).accepted);
    }

    #[test]
    fn established_stays() {
        let mut value = definition("foos", "Foo", false);
        let now = Timestamp::UNIX_EPOCH;
        decide(&value, std::iter::empty()).write_into(&mut value, now);
        assert_eq!(condition(&value, "Established").map(|c| &c["status"]), Some(&json!("True")));
        let before = value.clone();
        decide(&value, std::iter::empty()).write_into(&mut value, Timestamp::from_second(9).expect("time"));
        assert_eq!(value, before, "nothing changes the second time");
    }
}
