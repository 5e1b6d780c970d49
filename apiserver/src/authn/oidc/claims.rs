//! From the verified claims of a token to the user it speaks for. Pure.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::config::{Issuer, Mapping};
use crate::contract::UserInfo;
use crate::tokens::claims::LEEWAY_SECS;

/// Upstream's key for what a credential is known by.
const CREDENTIAL: &str = "authentication.kubernetes.io/credential-id";

type Claims = Map<String, Value>;

/// The user, or why the token is refused.
pub fn user(issuer: &Issuer, claims: &Claims, now: Timestamp) -> Result<UserInfo, String> {
    check_times(claims, now)?;
    check_audience(issuer, claims)?;
    for (claim, wanted) in &issuer.required {
        let found = claims.get(claim).and_then(Value::as_str);
        match found {
            None => return Err(format!("oidc: required claim {claim} not present in ID token")),
            Some(found) if found != wanted => {
                return Err(format!(
                    "oidc: required claim {claim} value does not match. Got = {found}, want = {wanted}"
                ));
            }
            Some(_) => {}
        }
    }
    let mut user = UserInfo { name: username(&issuer.username, claims)?, ..UserInfo::default() };
    if let Some(groups) = &issuer.groups {
        user.groups = group_names(groups, claims)?;
    }
    if !issuer.uid_claim.is_empty() {
        user.uid = string(claims, &issuer.uid_claim)?.to_owned();
    }
    if let Some(id) = claims.get("jti").and_then(Value::as_str).filter(|id| !id.is_empty()) {
        user.extra.insert(CREDENTIAL.to_owned(), vec![format!("JTI={id}")]);
    }
    Ok(user)
}

fn check_times(claims: &Claims, now: Timestamp) -> Result<(), String> {
    let time = |name: &str| claims.get(name).and_then(Value::as_f64);
    let now = now.as_second() as f64;
    let Some(expires) = time("exp") else {
        return Err("oidc: verify token: oidc: token has no expiry".to_owned());
    };
    if now > expires {
        return Err("oidc: verify token: oidc: token is expired".to_owned());
    }
    if time("nbf").is_some_and(|begins| now + LEEWAY_SECS as f64 * 5.0 < begins) {
        return Err("oidc: verify token: oidc: current time is before the nbf (not before) time".to_owned());
    }
    Ok(())
}

fn check_audience(issuer: &Issuer, claims: &Claims) -> Result<(), String> {
    let held: Vec<&str> = match claims.get("aud") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if held.iter().any(|audience| issuer.audiences.iter().any(|ours| ours == audience)) {
        return Ok(());
    }
    Err(format!("oidc: verify token: oidc: expected audience in {:?} got {held:?}", issuer.audiences))
}

fn string<'c>(claims: &'c Claims, name: &str) -> Result<&'c str, String> {
    let value = claims.get(name).ok_or_else(|| format!("oidc: parse claim {name:?}: claim not present"))?;
    value.as_str().ok_or_else(|| format!("oidc: parse claim {name:?}: not a string"))
}

fn username(mapping: &Mapping, claims: &Claims) -> Result<String, String> {
    let name = string(claims, &mapping.claim)?;
    // An address that nobody has confirmed could be anybody's.
    if mapping.claim == "email" && claims.get("email_verified").is_some_and(|verified| *verified != true) {
        return Err("oidc: email not verified".to_owned());
    }
    if name.is_empty() {
        return Err(format!("oidc: claim {:?} is empty", mapping.claim));
    }
    Ok(format!("{}{name}", mapping.prefix))
}

fn group_names(mapping: &Mapping, claims: &Claims) -> Result<Vec<String>, String> {
    let names: Vec<&str> = match claims.get(&mapping.claim) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(many)) if many.iter().all(Value::is_string) => {
            many.iter().filter_map(Value::as_str).collect()
        }
        Some(_) => {
            return Err(format!("oidc: parse groups claim {:?}: not a list of strings", mapping.claim));
        }
    };
    Ok(names.into_iter().map(|name| format!("{}{name}", mapping.prefix)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::oidc::Flags;
    use serde_json::json;

    fn issuer() -> Issuer {
        let flags = Flags {
            issuer_url: "https://i".into(),
            client_id: "me".into(),
            username_claim: "email".into(),
            groups_claim: "groups".into(),
            groups_prefix: "g:".into(),
            required_claims: vec!["hd=example.com".into()],
            ..Flags::default()
        };
        flags.issuer().ok().flatten().expect("an issuer")
    }

    #[test]
    fn users_and_refusals() {
        let good = json!({"aud": ["me", "you"], "exp": 200, "email": "a@b", "groups": ["x"], "hd": "example.com", "jti": "7"});
        let check = |change: Value, expected: Result<&str, &str>| {
            let mut claims = good.clone();
            claims.as_object_mut().expect("a map").extend(change.as_object().cloned().unwrap_or_default());
            let now = Timestamp::from_second(100).expect("a time");
            let got = user(&issuer(), claims.as_object().expect("a map"), now);
            match expected {
                Ok(name) => {
                    assert_eq!(got.map(|u| format!("{} {:?}", u.name, u.groups)).as_deref(), Ok(name))
                }
                Err(part) => assert!(got.as_ref().is_err_and(|e| e.contains(part)), "{got:?}"),
            }
        };
        check(json!({}), Ok("a@b [\"g:x\"]"));
        check(json!({"groups": "one"}), Ok("a@b [\"g:one\"]"));
        check(json!({"groups": null}), Ok("a@b []"));
        check(json!({"groups": [1]}), Err("groups"));
        check(json!({"exp": 99}), Err("expired"));
        check(json!({"exp": null}), Err("no expiry"));
        check(json!({"nbf": 900}), Err("nbf"));
        check(json!({"aud": "you"}), Err("audience"));
        check(json!({"hd": "evil.com"}), Err("does not match"));
        check(json!({"email_verified": false}), Err("not verified"));
        check(json!({"email": 5}), Err("not a string"));
    }
}
