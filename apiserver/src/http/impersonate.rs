//! `Impersonate-*` headers: another identity for one request, when the real one may take it.

use std::collections::BTreeMap;

use http::HeaderMap;
use machinery::gotext::quote;
use machinery::status::StatusError;
use percent_encoding::percent_decode_str;

use super::Api;
use crate::contract::{Decision, RequestInfo, UserInfo};

const USER: &str = "impersonate-user";
const UID: &str = "impersonate-uid";
const GROUP: &str = "impersonate-group";
const EXTRA: &str = "impersonate-extra-";
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

fn texts(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect()
}

/// What the headers ask for, or `None` when they ask for nothing.
fn requested(headers: &HeaderMap) -> Result<Option<UserInfo>, StatusError> {
    let name = texts(headers, USER).into_iter().next().unwrap_or_default();
    let uid = texts(headers, UID).into_iter().next().unwrap_or_default();
    let groups = texts(headers, GROUP);
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for key in headers.keys() {
        if let Some(encoded) = key.as_str().strip_prefix(EXTRA) {
            let decoded = percent_decode_str(encoded).decode_utf8_lossy().into_owned();
            extra.entry(decoded).or_default().extend(texts(headers, key.as_str()));
        }
    }
    if name.is_empty() {
        if uid.is_empty() && groups.is_empty() && extra.is_empty() {
            return Ok(None);
        }
        let fields = in_go(&uid, &groups, &extra);
        return Err(StatusError::bad_request(format!(
            "requested {fields} without impersonating a user name"
        )));
    }
    Ok(Some(UserInfo { name, uid, groups, extra }))
}

/// Who was asked for, as Go prints it.
fn in_go(uid: &str, groups: &[String], extra: &BTreeMap<String, Vec<String>>) -> String {
    let list = |texts: &[String]| {
        let texts: Vec<String> = texts.iter().map(|t| quote(t)).collect();
        if texts.is_empty() {
            "[]string(nil)".to_owned()
        } else {
            format!("[]string{{{}}}", texts.join(", "))
        }
    };
    let entries: Vec<String> = extra.iter().map(|(k, v)| format!("{}:{}", quote(k), list(v))).collect();
    let extra = if entries.is_empty() {
        "map[string][]string(nil)".to_owned()
    } else {
        format!("map[string][]string{{{}}}", entries.join(", "))
    };
    let (uid, groups) = (quote(uid), list(groups));
    format!("&user.DefaultInfo{{Name:\"\", UID:{uid}, Groups:{groups}, Extra:{extra}}}")
}

fn check_of(group: &str, resource: &str, subresource: &str, namespace: &str, name: &str) -> RequestInfo {
    RequestInfo {
        is_resource: true,
        verb: "impersonate".to_owned(),
        group: group.to_owned(),
        version: "v1".to_owned(),
        resource: resource.to_owned(),
        subresource: subresource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        ..RequestInfo::default()
    }
}

/// Every permission the impersonation needs.
fn checks(wanted: &UserInfo) -> Vec<RequestInfo> {
    let mut all = Vec::new();
    match wanted.name.strip_prefix(SERVICE_ACCOUNT).and_then(|r| r.split_once(':')) {
        Some((namespace, name)) => all.push(check_of("", "serviceaccounts", "", namespace, name)),
        None => all.push(check_of("", "users", "", "", &wanted.name)),
    }
    all.extend(wanted.groups.iter().map(|g| check_of("", "groups", "", "", g)));
    let authentication = "authentication.k8s.io";
    for (key, values) in &wanted.extra {
        all.extend(values.iter().map(|v| check_of(authentication, "userextras", key, "", v)));
    }
    if !wanted.uid.is_empty() {
        all.push(check_of(authentication, "uids", "", "", &wanted.uid));
    }
    all
}

/// The groups an identity has by itself.
fn complete(mut user: UserInfo) -> UserInfo {
    let mut add = |group: String| {
        if !user.groups.contains(&group) {
            user.groups.push(group);
        }
    };
    if let Some((namespace, _)) = user.name.strip_prefix(SERVICE_ACCOUNT).and_then(|r| r.split_once(':')) {
        add("system:serviceaccounts".to_owned());
        add(format!("system:serviceaccounts:{namespace}"));
    }
    if user.name == "system:anonymous" {
        add("system:unauthenticated".to_owned());
    } else {
        add("system:authenticated".to_owned());
    }
    user
}

impl Api {
    /// The identity the request runs as.
    pub async fn impersonate(&self, user: UserInfo, headers: &HeaderMap) -> Result<UserInfo, StatusError> {
        let Some(wanted) = requested(headers)? else { return Ok(user) };
        for check in checks(&wanted) {
            match self.authorizer.authorize(&user, &check).await {
                Decision::Allow { .. } => {}
                Decision::Deny { reason } | Decision::NoOpinion { reason } => {
                    return Err(super::chain::forbidden(&user, &check, &reason));
                }
            }
        }
        Ok(complete(wanted))
    }
}
