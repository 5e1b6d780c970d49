//! What a service account token says, and whether it still holds.
//!
//! Pure: the objects the token is bound to are looked up by the caller. Source: upstream `pkg/serviceaccount`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::contract::{Object, UserInfo};
use crate::kinds::json::text;

/// Clocks of issuer and verifier may differ by this much, seconds.
pub const LEEWAY_SECS: i64 = 60;

/// The claims of a bound token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceAccountClaims {
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "one_or_many")]
    pub aud: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exp: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iat: Option<i64>,
    #[serde(default)]
    pub iss: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub jti: String,
    #[serde(rename = "kubernetes.io", default)]
    pub kubernetes: Bindings,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<i64>,
    #[serde(default)]
    pub sub: String,
}

/// The objects a token is bound to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bindings {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<ObjectRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<ObjectRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<ObjectRef>,
    #[serde(default)]
    pub serviceaccount: ObjectRef,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// Name and uid of a bound object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

impl ObjectRef {
    /// The reference to a stored object.
    pub fn to(object: &Object) -> Self {
        ObjectRef {
            name: text(object, &["metadata", "name"]).to_owned(),
            uid: text(object, &["metadata", "uid"]).to_owned(),
        }
    }
}

/// What the cluster holds for the names in a token.
#[derive(Clone, Copy, Debug, Default)]
pub struct BoundObjects<'a> {
    pub service_account: Option<&'a Object>,
    pub pod: Option<&'a Object>,
    pub secret: Option<&'a Object>,
    pub node: Option<&'a Object>,
}

/// Who the token speaks for, or why it no longer does.
pub fn user_of(
    claims: &ServiceAccountClaims,
    bound: BoundObjects<'_>,
    now: Timestamp,
) -> Result<UserInfo, String> {
    check_times(claims, now)?;
    let kubernetes = &claims.kubernetes;
    check_account(kubernetes, bound.service_account, now)?;
    check_bound("secret", &kubernetes.secret, bound.secret, now)?;
    check_bound("pod", &kubernetes.pod, bound.pod, now)?;
    if kubernetes.pod.is_none() {
        check_bound("node", &kubernetes.node, bound.node, now)?;
    }
    Ok(user(claims))
}

fn check_times(claims: &ServiceAccountClaims, now: Timestamp) -> Result<(), String> {
    let now = now.as_second();
    if claims.nbf.is_some_and(|nbf| now + LEEWAY_SECS < nbf) {
        return Err("service account token is not valid yet".to_owned());
    }
    if claims.exp.is_some_and(|exp| now - LEEWAY_SECS > exp) {
        return Err("service account token has expired".to_owned());
    }
    if claims.iat.is_some_and(|iat| now + LEEWAY_SECS < iat) {
        return Err("service account token is issued in the future".to_owned());
    }
    Ok(())
}

fn check_account(kubernetes: &Bindings, found: Option<&Object>, now: Timestamp) -> Result<(), String> {
    let name = &kubernetes.serviceaccount.name;
    let Some(account) = found else { return Err(format!("serviceaccounts \"{name}\" not found")) };
    let uid = text(account, &["metadata", "uid"]);
    let claimed = &kubernetes.serviceaccount.uid;
    if uid != claimed {
        return Err(format!("service account UID ({uid}) does not match claim ({claimed})"));
    }
    if is_gone(account, now) {
        return Err(format!("service account {}/{name} has been deleted", kubernetes.namespace));
    }
    Ok(())
}

fn check_bound(
    kind: &str,
    claimed: &Option<ObjectRef>,
    found: Option<&Object>,
    now: Timestamp,
) -> Result<(), String> {
    let Some(claimed) = claimed else { return Ok(()) };
    let Some(found) = found else { return Err("service account token has been invalidated".to_owned()) };
    let uid = text(found, &["metadata", "uid"]);
    if uid != claimed.uid {
        return Err(format!(
            "{kind} UID ({uid}) does not match service account {kind} ref claim ({})",
            claimed.uid
        ));
    }
    if is_gone(found, now) { Err("service account token has been invalidated".to_owned()) } else { Ok(()) }
}

/// Deleted longer ago than clocks may differ.
fn is_gone(object: &Object, now: Timestamp) -> bool {
    text(object, &["metadata", "deletionTimestamp"])
        .parse::<Timestamp>()
        .is_ok_and(|deleted| deleted.as_second() < now.as_second() - LEEWAY_SECS)
}

fn user(claims: &ServiceAccountClaims) -> UserInfo {
    let kubernetes = &claims.kubernetes;
    let mut extra = BTreeMap::new();
    let mut add = |key: &str, value: String| {
        if !value.is_empty() {
            extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
        }
    };
    if let Some(pod) = &kubernetes.pod {
        add("pod-name", pod.name.clone());
        add("pod-uid", pod.uid.clone());
    }
    if let Some(node) = &kubernetes.node {
        add("node-name", node.name.clone());
        add("node-uid", node.uid.clone());
    }
    if !claims.jti.is_empty() {
        add("credential-id", format!("JTI={}", claims.jti));
    }
    UserInfo {
        name: username(&kubernetes.namespace, &kubernetes.serviceaccount.name),
        uid: kubernetes.serviceaccount.uid.clone(),
        groups: groups(&kubernetes.namespace),
        extra,
    }
}

/// The user name of a service account.
pub fn username(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

/// The groups every service account of the namespace is in.
pub fn groups(namespace: &str) -> Vec<String> {
    vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]
}

/// Namespace and name of a service account's user name.
pub fn split_username(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

/// `aud` may be one string or a list of them.
mod one_or_many {
    use serde::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
        Ok(match OneOrMany::deserialize(input)? {
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many,
        })
    }

    pub fn serialize<S: Serializer>(audiences: &[String], output: S) -> Result<S::Ok, S::Error> {
        output.collect_seq(audiences)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn claims() -> ServiceAccountClaims {
        serde_json::from_value(json!({
            "aud": "api", "exp": 2000, "nbf": 1000, "iat": 1000, "iss": "x", "jti": "j",
            "sub": "system:serviceaccount:ns:sa",
            "kubernetes.io": {"namespace": "ns", "serviceaccount": {"name": "sa", "uid": "1"}, "pod": {"name": "p", "uid": "2"}}
        }))
        .unwrap()
    }

    fn check(account: Object, pod: Option<Object>, now: i64, expected: Result<&str, &str>) {
        let bound = BoundObjects { service_account: Some(&account), pod: pod.as_ref(), ..Default::default() };
        let got = user_of(&claims(), bound, Timestamp::from_second(now).unwrap());
        assert_eq!(got.as_ref().map(|user| user.name.as_str()).map_err(String::as_str), expected);
    }

    #[test]
    fn bound_tokens_die_with_their_objects() {
        let account = || json!({"metadata": {"uid": "1"}});
        let pod = |uid: &str| Some(json!({"metadata": {"uid": uid}}));
        check(account(), pod("2"), 1500, Ok("system:serviceaccount:ns:sa"));
        check(account(), pod("2"), 2060, Ok("system:serviceaccount:ns:sa"));
        check(account(), pod("2"), 2061, Err("service account token has expired"));
        check(account(), pod("2"), 900, Err("service account token is not valid yet"));
        check(account(), None, 1500, Err("service account token has been invalidated"));
        check(account(), pod("3"), 1500, Err("pod UID (3) does not match service account pod ref claim (2)"));
        check(
            json!({"metadata": {"uid": "9"}}),
            None,
            1500,
            Err("service account UID (9) does not match claim (1)"),
        );
        let gone = json!({"metadata": {"uid": "2", "deletionTimestamp": "1970-01-01T00:20:00Z"}});
        check(account(), Some(gone), 1500, Err("service account token has been invalidated"));
    }

    #[test]
    fn usernames_split_back() {
        assert_eq!(split_username(&username("a", "b")), Some(("a", "b")));
        assert_eq!(split_username("system:serviceaccount:a"), None);
        assert_eq!(split_username("system:serviceaccount:a:b:c"), None);
    }
}
