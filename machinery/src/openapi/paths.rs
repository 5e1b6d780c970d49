//! Paths and operations of a resource and its subresources.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{Format, Served, base_path, custom};
use crate::schema;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const MEDIA: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const PATCH_MEDIA: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// Query parameters of reads of collections.
const LIST_QUERY: [(&str, &str); 10] = [
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const WRITE_QUERY: [(&str, &str); 3] =
    [("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const DELETE_QUERY: [(&str, &str); 4] = [
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];

/// What all operations of one path share.
struct Context<'a> {
    format: Format,
    served: &'a Served,
    /// Kind of the bodies.
    gvk: (&'a str, &'a str, &'a str),
    /// What stands behind the verb in operation ids.
    subject: String,
    used: &'a mut BTreeSet<String>,
}

/// The definition of a kind: a built-in one, or the name of a custom one.
fn definition_of(group: &str, version: &str, kind: &str) -> Option<String> {
    match schema::for_kind(group, version, kind) {
        Some(schema) => Some(schema.root().name.to_string()),
        None if group.contains('.') => Some(custom::definition_name(group, version, kind)),
        None => None,
    }
}

fn camel(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}

/// `AppsV1`, `RbacAuthorizationV1`, `CoreV1`.
fn group_part(group: &str, version: &str) -> String {
    let group = if group.is_empty() { "core" } else { group.trim_end_matches(".k8s.io") };
    let words: String = group.split(['.', '-']).map(camel).collect();
    words + &camel(version)
}

fn tag(group: &str, version: &str) -> String {
    let group = if group.is_empty() { "core" } else { group.trim_end_matches(".k8s.io") };
    let mut words = group.split('.');
    let first = words.next().unwrap_or_default().to_owned();
    format!("{}_{version}", first + &words.map(camel).collect::<String>())
}

/// The path that lists a group-version's resources.
pub(super) fn discovery(format: Format, group: &str, version: &str, used: &mut BTreeSet<String>) -> Value {
    let list = format!("{META}APIResourceList");
    used.insert(list.clone());
    let operation = json!({
        "description": "get available resources",
        "operationId": format!("get{}APIResources", group_part(group, version)),
        "tags": [tag(group, version)],
        "responses": responses(format, &[("200", "OK")], Some(&list)),
    });
    json!({"get": operation})
}

/// Adds every path of the resource.
pub(super) fn add(
    format: Format,
    served: &Served,
    all: &mut Map<String, Value>,
    used: &mut BTreeSet<String>,
) {
    let base = base_path(&served.group, &served.version);
    let scope = if served.namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("{base}{scope}/{}", served.resource);
    let item = format!("{collection}/{{name}}");
    let namespaced = if served.namespaced { "Namespaced" } else { "" };
    let has = |verb: &str| served.verbs.iter().any(|v| v == verb);
    let mut context = Context {
        format,
        served,
        gvk: (&served.group, &served.version, &served.kind),
        subject: format!("{namespaced}{}", served.kind),
        used,
    };

    let mut operations = Map::new();
    for (verb, method) in [("list", "get"), ("create", "post"), ("deletecollection", "delete")] {
        if has(verb) {
            operations.insert(method.to_owned(), context.operation(verb));
        }
    }
    context.put(all, &collection, operations, &[]);

    let mut operations = Map::new();
    for (verb, method) in [("get", "get"), ("update", "put"), ("patch", "patch"), ("delete", "delete")] {
        if has(verb) {
            operations.insert(method.to_owned(), context.operation(verb));
        }
    }
    context.put(all, &item, operations, &["name"]);

    if served.namespaced && has("list") {
        context.subject = format!("{}ForAllNamespaces", served.kind);
        let operations = Map::from_iter([("get".to_owned(), context.operation("list"))]);
        context.put_cluster(all, &format!("{base}/{}", served.resource), operations);
    }
    for sub in &served.subresources {
        context.gvk = (&sub.group, &sub.version, &sub.kind);
        context.subject = format!("{namespaced}{}{}", served.kind, camel(&sub.name));
        let connect = sub.kind.ends_with("Options");
        let mut operations = Map::new();
        for verb in &sub.verbs {
            let method = match verb.as_str() {
                "create" => "post",
                "update" => "put",
                other => other,
            };
            let operation = if connect { context.connect(method) } else { context.operation(verb) };
            operations.insert(method.to_owned(), operation);
        }
        let path = format!("{item}/{}", sub.name);
        if sub.name == "proxy" {
            context.subject += "WithPath";
            let deeper = operations.keys().map(|method| (method.clone(), context.connect(method))).collect();
            context.put(all, &format!("{path}/{{path}}"), deeper, &["name", "path"]);
        }
        context.put(all, &path, operations, &["name"]);
    }
}

impl Context<'_> {
    /// Inserts a path with its parameters; paths without operations are left out.
    fn put(&self, all: &mut Map<String, Value>, path: &str, operations: Map<String, Value>, names: &[&str]) {
        let mut names: Vec<&str> = names.to_vec();
        if self.served.namespaced {
            names.push("namespace");
        }
        self.put_with(all, path, operations, &names);
    }

    fn put_cluster(&self, all: &mut Map<String, Value>, path: &str, operations: Map<String, Value>) {
        self.put_with(all, path, operations, &[]);
    }

    fn put_with(
        &self,
        all: &mut Map<String, Value>,
        path: &str,
        mut operations: Map<String, Value>,
        names: &[&str],
    ) {
        if operations.is_empty() {
            return;
        }
        let mut parameters: Vec<Value> =
            names.iter().map(|name| self.parameter("path", name, "string", true)).collect();
        parameters.push(self.parameter("query", "pretty", "string", false));
        operations.insert("parameters".to_owned(), Value::Array(parameters));
        all.insert(path.to_owned(), Value::Object(operations));
    }

    fn parameter(&self, place: &str, name: &str, ty: &str, required: bool) -> Value {
        let mut out = match self.format {
            Format::V2 => json!({"in": place, "name": name, "type": ty, "uniqueItems": true}),
            Format::V3 => json!({"in": place, "name": name, "schema": {"type": ty, "uniqueItems": true}}),
        };
        if required {
            out["required"] = json!(true);
        }
        out
    }

    fn query(&self, parameters: &[(&str, &str)]) -> Vec<Value> {
        parameters.iter().map(|(name, ty)| self.parameter("query", name, ty, false)).collect()
    }

    /// A reference to the definition of a kind, and its name among those used.
    fn kind(&mut self, kind: &str) -> Option<String> {
        let (group, version, _) = self.gvk;
        let definition = definition_of(group, version, kind)?;
        self.used.insert(definition.clone());
        Some(definition)
    }

    fn meta(&mut self, kind: &str) -> Option<String> {
        let definition = format!("{META}{kind}");
        self.used.insert(definition.clone());
        Some(definition)
    }

    fn operation(&mut self, verb: &str) -> Value {
        let kind = self.gvk.2;
        let (name, action, summary) = match verb {
            "list" => ("list", "list", "list objects of kind"),
            "create" => ("create", "post", "create"),
            "deletecollection" => ("deleteCollection", "deletecollection", "delete collection of"),
            "get" => ("read", "get", "read the specified"),
            "update" => ("replace", "put", "replace the specified"),
            "patch" => ("patch", "patch", "partially update the specified"),
            _ => ("delete", "delete", "delete"),
        };
        let group = group_part(&self.served.group, &self.served.version);
        let id = match name {
            "deleteCollection" => format!("delete{group}Collection{}", self.subject),
            _ => format!("{name}{group}{}", self.subject),
        };
        let list_kind = self.served.list_kind.clone();
        let answer = match verb {
            "list" => self.kind(&list_kind),
            "deletecollection" => self.meta("Status"),
            "delete" => self.meta("Status"),
            _ => self.kind(kind),
        };
        let codes: &[(&str, &str)] = match verb {
            "create" => &[("200", "OK"), ("201", "Created"), ("202", "Accepted")],
            "update" | "patch" => &[("200", "OK"), ("201", "Created")],
            "delete" => &[("200", "OK"), ("202", "Accepted")],
            _ => &[("200", "OK")],
        };
        let (group, version, _) = self.gvk;
        let mut out = json!({
            "description": format!("{summary} {kind}"),
            "operationId": id,
            "tags": [tag(&self.served.group, &self.served.version)],
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind},
            "responses": responses(self.format, codes, answer.as_deref()),
        });
        self.body_and_query(verb, &mut out);
        if self.format == Format::V2 {
            out["produces"] = json!(MEDIA);
            out["consumes"] = if verb == "patch" { json!(PATCH_MEDIA) } else { json!(["*/*"]) };
            out["schemes"] = json!(["https"]);
        }
        out
    }

    fn body_and_query(&mut self, verb: &str, out: &mut Value) {
        let kind = self.gvk.2;
        let mut parameters = match verb {
            "list" => self.query(&LIST_QUERY),
            "create" | "update" => self.query(&WRITE_QUERY),
            "patch" => {
                let mut query = self.query(&WRITE_QUERY);
                query.extend(self.query(&[("force", "boolean")]));
                query
            }
            "delete" => self.query(&DELETE_QUERY),
            "deletecollection" => {
                let mut query = self.query(&DELETE_QUERY);
                query.extend(self.query(&LIST_QUERY));
                // Named in both, but a parameter may stand only once.
                query.retain(|p| p["name"] != "watch" && p["name"] != "allowWatchBookmarks");
                query
            }
            _ => Vec::new(),
        };
        let body = match verb {
            "create" | "update" => self.kind(kind),
            "patch" => self.meta("Patch"),
            "delete" | "deletecollection" => self.meta("DeleteOptions"),
            _ => None,
        };
        if let Some(definition) = body {
            let required = matches!(verb, "create" | "update" | "patch");
            let schema = self.format.reference(&definition);
            if self.format == Format::V2 {
                parameters.insert(0, json!({"in": "body", "name": "body", "schema": schema}));
                if required {
                    parameters[0]["required"] = json!(true);
                }
            } else {
                let media: &[&str] = if verb == "patch" { &PATCH_MEDIA } else { &["*/*"] };
                let content: Map<String, Value> =
                    media.iter().map(|m| ((*m).to_owned(), json!({"schema": schema}))).collect();
                out["requestBody"] = json!({"content": content});
                if required {
                    out["requestBody"]["required"] = json!(true);
                }
            }
        }
        if !parameters.is_empty() {
            out["parameters"] = Value::Array(parameters);
        }
    }

    /// A stream to or through a pod, node or service.
    fn connect(&mut self, method: &str) -> Value {
        let group = group_part(&self.served.group, &self.served.version);
        let (gvk_group, version, kind) = self.gvk;
        let mut out = json!({
            "description": format!("connect {} requests to {}", method.to_uppercase(), self.subject),
            "operationId": format!("connect{group}{}{}", camel(method), self.subject),
            "tags": [tag(&self.served.group, &self.served.version)],
            "x-kubernetes-action": "connect",
            "x-kubernetes-group-version-kind": {"group": gvk_group, "version": version, "kind": kind},
        });
        out["responses"] = match self.format {
            Format::V2 => json!({"200": {"description": "OK", "schema": {"type": "string"}}}),
            Format::V3 => {
                json!({"200": {"description": "OK", "content": {"*/*": {"schema": {"type": "string"}}}}})
            }
        };
        out
    }
}

fn responses(format: Format, codes: &[(&str, &str)], definition: Option<&str>) -> Value {
    let mut out = Map::new();
    for (code, text) in codes {
        let mut response = json!({"description": text});
        if let Some(definition) = definition {
            let schema = format.reference(definition);
            match format {
                Format::V2 => response["schema"] = schema,
                Format::V3 => {
                    let content: Map<String, Value> =
                        MEDIA.iter().map(|m| ((*m).to_owned(), json!({"schema": schema}))).collect();
                    response["content"] = Value::Object(content);
                }
            }
        }
        out.insert((*code).to_owned(), response);
    }
    out.insert("401".to_owned(), json!({"description": "Unauthorized"}));
    Value::Object(out)
}
