//! One policy rule: what it allows, what it covers, how it prints. Pure.

use serde_json::{Value, json};

use crate::contract::RequestInfo;
use crate::kinds::json::{items, texts};

/// A `rbac.authorization.k8s.io/v1` PolicyRule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    pub verbs: Vec<String>,
    pub api_groups: Vec<String>,
    pub resources: Vec<String>,
    pub resource_names: Vec<String>,
    pub non_resource_urls: Vec<String>,
}

impl Rule {
    /// Reads one rule of a role.
    pub fn from_json(rule: &Value) -> Self {
        let list = |name: &str| texts(rule, &[name]).map(str::to_owned).collect();
        Rule {
            verbs: list("verbs"),
            api_groups: list("apiGroups"),
            resources: list("resources"),
            resource_names: list("resourceNames"),
            non_resource_urls: list("nonResourceURLs"),
        }
    }

    /// Reads the `rules` of a role.
    pub fn list(role: &Value) -> Vec<Rule> {
        items(role, &["rules"]).iter().map(Rule::from_json).collect()
    }

    /// The rule as SelfSubjectRulesReview shows it.
    pub fn to_json(&self) -> Value {
        let mut out = json!({ "verbs": self.verbs });
        let lists = [
            ("apiGroups", &self.api_groups),
            ("resources", &self.resources),
            ("resourceNames", &self.resource_names),
            ("nonResourceURLs", &self.non_resource_urls),
        ];
        for (name, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
            out[name] = json!(list);
        }
        out
    }

    /// Whether the rule allows the request.
    pub fn allows(&self, info: &RequestInfo) -> bool {
        if !has(&self.verbs, "*") && !has(&self.verbs, &info.verb) {
            return false;
        }
        if !info.is_resource {
            return self.non_resource_urls.iter().any(|url| url_covers(url, &info.path));
        }
        (has(&self.api_groups, "*") || has(&self.api_groups, &info.group))
            && self.resources.iter().any(|rule| resource_matches(rule, &info.resource, &info.subresource))
            && (self.resource_names.is_empty() || has(&self.resource_names, &info.name))
    }

    /// The same permissions as rules of one verb, group, resource and name each.
    fn broken_down(&self) -> Vec<Rule> {
        let mut out = Vec::new();
        let one = |text: &String| vec![text.clone()];
        for group in &self.api_groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    let base = Rule {
                        api_groups: one(group),
                        resources: one(resource),
                        verbs: one(verb),
                        ..Rule::default()
                    };
                    if self.resource_names.is_empty() {
                        out.push(base.clone());
                    }
                    let named = |name| Rule { resource_names: one(name), ..base.clone() };
                    out.extend(self.resource_names.iter().map(named));
                }
            }
        }
        for url in &self.non_resource_urls {
            let urls = |verb| Rule { non_resource_urls: one(url), verbs: one(verb), ..Rule::default() };
            out.extend(self.verbs.iter().map(urls));
        }
        out
    }

    /// Whether this rule alone covers a broken-down one.
    fn covers(&self, part: &Rule) -> bool {
        let all = |own: &[String], asked: &[String]| has(own, "*") || asked.iter().all(|one| has(own, one));
        let names = self.resource_names.is_empty()
            || (!part.resource_names.is_empty()
                && part.resource_names.iter().all(|n| has(&self.resource_names, n)));
        all(&self.verbs, &part.verbs)
            && all(&self.api_groups, &part.api_groups)
            && part.resources.iter().all(|resource| self.covers_resource(resource))
            && names
            && part
                .non_resource_urls
                .iter()
                .all(|url| self.non_resource_urls.iter().any(|own| url_covers(own, url)))
    }

    fn covers_resource(&self, resource: &str) -> bool {
        let any_parent = |sub: &str| has(&self.resources, &format!("*/{sub}"));
        has(&self.resources, "*")
            || has(&self.resources, resource)
            || resource.split_once('/').is_some_and(|(_, sub)| any_parent(sub))
    }

    /// The rule as upstream prints what is missing: `{APIGroups:["apps"], Resources:["deployments"], Verbs:["get"]}`.
    fn compact(&self) -> String {
        let lists = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.non_resource_urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ];
        let parts = lists.into_iter().filter(|(_, list)| !list.is_empty());
        let parts: Vec<String> = parts.map(|(name, list)| format!("{name}:{}", go_list(list))).collect();
        format!("{{{}}}", parts.join(", "))
    }
}

/// What of `asked` the rules in `held` do not cover, as sorted compact texts; empty when all is covered.
pub fn missing(held: &[Rule], asked: &[Rule]) -> Vec<String> {
    let parts = asked.iter().flat_map(Rule::broken_down);
    let uncovered = parts.filter(|part| !held.iter().any(|own| own.covers(part)));
    let mut merged: Vec<Rule> = Vec::new();
    for part in uncovered {
        let same = |rule: &&mut Rule| {
            part.non_resource_urls.is_empty()
                && (&rule.api_groups, &rule.resources, &rule.resource_names)
                    == (&part.api_groups, &part.resources, &part.resource_names)
        };
        match merged.iter_mut().find(same) {
            Some(rule) => rule.verbs.extend(part.verbs),
            None => merged.push(part),
        }
    }
    let mut texts: Vec<String> = merged.iter().map(Rule::compact).collect();
    texts.sort();
    texts.dedup();
    texts
}

/// Errors as one text, as Go aggregates them: alone, or `[a, b]` without repetitions.
pub fn join_errors(mut errors: Vec<String>) -> Option<String> {
    let mut seen = Vec::new();
    errors.retain(|error| {
        let new = !seen.contains(error);
        seen.push(error.clone());
        new
    });
    match errors.len() {
        0 => None,
        1 => errors.pop(),
        _ => Some(format!("[{}]", errors.join(", "))),
    }
}

/// A list of strings as Go's `%q` prints it.
pub fn go_list(list: &[String]) -> String {
    let quoted: Vec<String> = list.iter().map(|text| machinery::gotext::quote(text)).collect();
    format!("[{}]", quoted.join(" "))
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|one| one == wanted)
}

fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == "*" {
        return true;
    }
    if subresource.is_empty() {
        return rule == resource;
    }
    match rule.split_once('/') {
        Some((parent, sub)) => sub == subresource && (parent == "*" || parent == resource),
        None => false,
    }
}

fn url_covers(rule: &str, url: &str) -> bool {
    rule == url || rule.strip_suffix('*').is_some_and(|prefix| url.starts_with(prefix.trim_end_matches('*')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(value: Value) -> Vec<Rule> {
        Rule::list(&json!({ "rules": value }))
    }

    fn request(verb: &str, group: &str, resource: &str, name: &str) -> RequestInfo {
        let (resource, sub) = resource.split_once('/').unwrap_or((resource, ""));
        RequestInfo {
            is_resource: true,
            verb: verb.to_owned(),
            group: group.to_owned(),
            resource: resource.to_owned(),
            subresource: sub.to_owned(),
            name: name.to_owned(),
            ..RequestInfo::default()
        }
    }

    #[test]
    fn allows() {
        let rule = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "*/scale"], "resourceNames": ["a"]});
        let rule = Rule::from_json(&rule);
        let check = |info: RequestInfo, expected: bool| assert_eq!(rule.allows(&info), expected, "{info:?}");
        check(request("get", "", "pods", "a"), true);
        check(request("get", "", "pods", "b"), false);
        check(request("get", "", "pods", ""), false);
        check(request("get", "", "pods/log", "a"), false);
        check(request("get", "", "things/scale", "a"), true);
        check(request("list", "", "pods", "a"), false);
        check(request("get", "apps", "pods", "a"), false);
        let urls = Rule::from_json(&json!({"verbs": ["get"], "nonResourceURLs": ["/healthz", "/api/*"]}));
        let url = |path: &str| RequestInfo {
            path: path.to_owned(),
            verb: "get".to_owned(),
            ..RequestInfo::default()
        };
        for (path, expected) in
            [("/healthz", true), ("/healthz/x", false), ("/api/v1", true), ("/apis", false)]
        {
            assert_eq!(urls.allows(&url(path)), expected, "{path}");
        }
    }

    fn check_missing(held: Value, asked: Value, expected: &[&str]) {
        assert_eq!(missing(&rules(held), &rules(asked)), expected);
    }

    #[test]
    fn coverage() {
        let all = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]);
        check_missing(all, json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods/log"]}]), &[]);
        check_missing(
            json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]),
            json!([{"verbs": ["get", "list", "watch"], "apiGroups": [""], "resources": ["pods", "secrets"]}]),
            &[
                r#"{APIGroups:[""], Resources:["pods"], Verbs:["list" "watch"]}"#,
                r#"{APIGroups:[""], Resources:["secrets"], Verbs:["get" "list" "watch"]}"#,
            ],
        );
        check_missing(
            json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["a"]}]),
            json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]),
            &[r#"{APIGroups:[""], Resources:["pods"], Verbs:["get"]}"#],
        );
        check_missing(
            json!([]),
            json!([{"verbs": ["get"], "nonResourceURLs": ["/x"]}]),
            &[r#"{NonResourceURLs:["/x"], Verbs:["get"]}"#],
        );
    }
}
