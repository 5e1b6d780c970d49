//! CertificateSigningRequest: who asks is the server's word; `/approval` and `/status` each change their part.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use machinery::names;
use machinery::status::FieldError;
use serde_json::{Value, json};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use super::at::At;
use super::checks::{Errors, invalid};
use super::json::{at, items, items_mut, keep, remove, same, set, set_if_zero, text};
use super::kind::Kind;
use crate::contract::{Object, RequestContext};

const GROUP: &str = "certificates.k8s.io";
const RESOURCE: &str = "certificatesigningrequests";
const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";
const SHORTEST_SECONDS: i64 = 600;
const DOMAIN_MAX: usize = 253;
const SIGNER_MAX: usize = DOMAIN_MAX + 1 + DOMAIN_MAX + 1 + 63;
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
/// Conditions that are decided once; the last one by the signer.
const FINAL: [&str; 3] = ["Approved", "Denied", "Failed"];

/// The rows of this kind.
pub const KINDS: &[Kind] = &[
    Kind {
        default: default_signer,
        create,
        update: |_, new, old| {
            keep(new, old, &["spec"]);
            keep(new, old, &["status"]);
        },
        check: |_, new, old, errors| check(new, old, Part::Main, errors),
        name: any_name,
        ..Kind::new(GROUP, RESOURCE)
    },
    Kind {
        update: update_status,
        check: |_, new, old, errors| check(new, old, Part::Status, errors),
        name: any_name,
        ..Kind::sub(GROUP, RESOURCE, "status")
    },
    Kind {
        update: update_approval,
        check: |_, new, old, errors| check(new, old, Part::Approval, errors),
        name: any_name,
        ..Kind::sub(GROUP, RESOURCE, "approval")
    },
];

/// What a request may change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Main,
    Status,
    Approval,
}

fn any_name(_: &str, _: bool) -> Vec<String> {
    Vec::new()
}

fn default_signer(request: &mut Object) {
    if items(request, &["spec", "usages"]).is_empty() && text(request, &["apiVersion"]).ends_with("/v1beta1")
    {
        set(request, &["spec", "usages"], json!(["digital signature", "key encipherment"]));
    }
}

fn create(ctx: &RequestContext, request: &mut Object) {
    for field in ["username", "uid", "groups", "extra"] {
        remove(request, &["spec", field]);
    }
    let user = &ctx.user;
    if !user.name.is_empty() {
        set(request, &["spec", "username"], user.name.as_str());
    }
    if !user.uid.is_empty() {
        set(request, &["spec", "uid"], user.uid.as_str());
    }
    if !user.groups.is_empty() {
        set(request, &["spec", "groups"], user.groups.clone());
    }
    if !user.extra.is_empty() {
        set(request, &["spec", "extra"], json!(user.extra));
    }
    set(request, &["status"], json!({}));
}

fn update_status(ctx: &RequestContext, new: &mut Object, old: &Object) {
    keep(new, old, &["spec"]);
    preserve(new, old, "Approved");
    preserve(new, old, "Denied");
    stamp(ctx, new, old);
}

fn update_approval(ctx: &RequestContext, new: &mut Object, old: &Object) {
    stamp(ctx, new, old);
    let conditions = at(new, &["status", "conditions"]).clone();
    keep(new, old, &["spec"]);
    keep(new, old, &["status"]);
    if !conditions.is_null() {
        set(new, &["status", "conditions"], conditions);
    }
}

fn of_type<'a>(request: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    items(request, &["status", "conditions"])
        .iter()
        .filter(move |condition| text(condition, &["type"]) == kind)
}

/// Puts the old instances of the condition back, unless some were added or removed: that is an error later.
fn preserve(new: &mut Object, old: &Object, kind: &str) {
    if of_type(new, kind).count() != of_type(old, kind).count() {
        return;
    }
    let own = items_mut(new, &["status", "conditions"]).iter_mut().filter(|c| text(c, &["type"]) == kind);
    own.zip(of_type(old, kind)).for_each(|(condition, kept)| *condition = kept.clone());
}

fn stamp(ctx: &RequestContext, new: &mut Object, old: &Object) {
    let now = machinery::time::format_time(ctx.now);
    for condition in items_mut(new, &["status", "conditions"]) {
        set_if_zero(condition, &["lastUpdateTime"], now.as_str());
        let was = of_type(old, text(condition, &["type"]))
            .find(|before| text(before, &["status"]) == text(condition, &["status"]))
            .map_or("", |before| text(before, &["lastTransitionTime"]));
        let since = if was.is_empty() { now.clone() } else { was.to_owned() };
        set_if_zero(condition, &["lastTransitionTime"], since);
    }
}

fn check(new: &Object, old: Option<&Object>, part: Part, errors: &mut Errors) {
    let root = At::root(new);
    let spec = root.get("spec");
    let request = spec.get("request");
    if let Err(why) = parse(&request) {
        errors.push(FieldError::invalid(&request, request.value.clone(), why));
    }
    usages(&spec.get("usages"), old, errors);
    signer(&spec.get("signerName"), old, errors);
    let expiration = spec.get("expirationSeconds");
    if let Some(seconds) = expiration.int().filter(|seconds| *seconds < SHORTEST_SECONDS) {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(FieldError::invalid(&expiration, seconds, detail));
    }
    let status = root.get("status");
    let both_before =
        old.is_some_and(|old| FINAL[..2].iter().all(|kind| of_type(old, kind).next().is_some()));
    conditions(&status.get("conditions"), both_before, errors);
    let certificate = status.get("certificate");
    if old.is_none_or(|old| !same(at(old, &["status", "certificate"]), certificate.value))
        && let Err(why) = certificates(certificate.text())
    {
        errors.push(FieldError::invalid(&certificate, "<certificate data>", why));
    }
    if let Some(old) = old {
        changes(new, old, part, errors);
    }
}

fn changes(new: &Object, old: &Object, part: Part, errors: &mut Errors) {
    let place = "status.conditions";
    let listed = |object, kind| of_type(object, kind).collect::<Vec<_>>();
    for kind in FINAL.iter().filter(|kind| of_type(new, kind).count() < of_type(old, kind).count()) {
        let detail = format!("updates may not remove a condition of type \"{kind}\"");
        errors.push(FieldError::forbidden(&place, detail));
    }
    for kind in FINAL[..2].iter().filter(|_| part != Part::Approval) {
        let (now, before) = (listed(new, kind), listed(old, kind));
        if now.len() > before.len() {
            let detail = format!("updates may not add a condition of type \"{kind}\"");
            errors.push(FieldError::forbidden(&place, detail));
        } else if now.len() == before.len() && !now.iter().zip(&before).all(|(a, b)| same(a, b)) {
            let detail = format!("updates may not modify a condition of type \"{kind}\"");
            errors.push(FieldError::forbidden(&place, detail));
        }
    }
    let (now, before) = (text(new, &["status", "certificate"]), text(old, &["status", "certificate"]));
    if now != before {
        let place = "status.certificate";
        if part != Part::Status {
            errors.push(FieldError::forbidden(&place, "updates may not set certificate content"));
        } else if !before.is_empty() {
            errors.push(FieldError::forbidden(&place, "updates may not modify existing certificate content"));
        }
    }
}

/// The PKCS#10 request parses and is signed by its own key.
fn parse(request: &At<'_, '_>) -> Result<(), String> {
    let wrong_block = || "PEM block type must be CERTIFICATE REQUEST".to_owned();
    let pem = STANDARD.decode(request.text()).map_err(|_| wrong_block())?;
    let item = rustls_pemfile::csr(&mut std::io::Cursor::new(&pem)).map_err(|_| wrong_block())?;
    let der = item.ok_or_else(wrong_block)?;
    let (_, parsed) = X509CertificationRequest::from_der(&der).map_err(|error| error.to_string())?;
    parsed.verify_signature().map_err(|error| error.to_string())
}

/// Every block is a certificate that parses.
fn certificates(base64: &str) -> Result<(), String> {
    if base64.is_empty() {
        return Ok(());
    }
    let none = || "must contain at least one CERTIFICATE PEM block".to_owned();
    let pem = STANDARD.decode(base64).map_err(|_| none())?;
    let mut blocks = 0;
    for block in x509_parser::pem::Pem::iter_from_buffer(&pem) {
        let Ok(block) = block else { break };
        if block.label != "CERTIFICATE" {
            let label = machinery::gotext::quote(&block.label);
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {label}"));
        }
        block.parse_x509().map_err(|error| error.to_string())?;
        blocks += 1;
    }
    if blocks == 0 { Err(none()) } else { Ok(()) }
}

fn usages(list: &At<'_, '_>, old: Option<&Object>, errors: &mut Errors) {
    if list.is_empty() {
        errors.push(FieldError::required(list, ""));
    }
    if old.is_some() {
        // The spec never changes; what was stored once is tolerated.
        return;
    }
    for (index, usage) in list.items().enumerate() {
        if !USAGES.contains(&usage.text()) {
            errors.push(FieldError::not_supported(&usage, usage.text(), &USAGES));
        }
        if list.items().take(index).any(|before| before.text() == usage.text()) {
            errors.push(FieldError::duplicate(&usage, usage.text()));
        }
    }
}

fn signer(name: &At<'_, '_>, old: Option<&Object>, errors: &mut Errors) {
    let text = name.text();
    if text == LEGACY_SIGNER && old.is_none() {
        let detail = "the legacy signerName is not allowed via this API version";
        errors.push(FieldError::invalid(name, text, detail));
        return;
    }
    signer_name(name, errors);
}

/// `domain.com/something`.
pub fn signer_name(name: &At<'_, '_>, errors: &mut Errors) {
    let whole = name.text();
    if whole.is_empty() {
        errors.push(FieldError::required(name, ""));
        return;
    }
    let Some((domain, path)) = whole.split_once('/').filter(|(_, path)| !path.contains('/')) else {
        let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errors.push(FieldError::invalid(name, whole, detail));
        return;
    };
    if domain.len() > DOMAIN_MAX {
        errors.push(FieldError::too_long(name, "", DOMAIN_MAX));
    }
    let mut segments = |part: &str, rule: fn(&str) -> Vec<String>| {
        let bad = part.split('.').map(|label| (label, rule(label))).find(|(_, texts)| !texts.is_empty());
        let texts = bad.into_iter().flat_map(|(label, texts)| {
            let label = machinery::gotext::quote(label);
            texts.into_iter().map(move |text| format!("validating label {label}: {text}"))
        });
        errors.extend(invalid(&name.with(&Value::from(part)), texts.collect()));
    };
    segments(domain, names::dns1123_label);
    segments(path, names::dns1123_subdomain);
    if !domain.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        errors.push(FieldError::invalid(name, domain, detail));
    }
    if whole.len() > SIGNER_MAX {
        errors.push(FieldError::too_long(name, "", SIGNER_MAX));
    }
}

fn conditions(list: &At<'_, '_>, both_before: bool, errors: &mut Errors) {
    let mut seen: Vec<&str> = Vec::new();
    for condition in list.items() {
        let (kind, status) = (condition.get("type"), condition.get("status"));
        if kind.text().is_empty() {
            errors.push(FieldError::required(&kind, ""));
        }
        let allowed: &[&str] =
            if FINAL.contains(&kind.text()) { &["True"] } else { &["False", "True", "Unknown"] };
        match status.text() {
            "" => errors.push(FieldError::required(&status, "")),
            value if !allowed.contains(&value) => {
                errors.push(FieldError::not_supported(&status, value, allowed));
            }
            _ => {}
        }
        let other = match kind.text() {
            "Approved" => Some("Denied"),
            "Denied" => Some("Approved"),
            _ => None,
        };
        if !both_before && other.is_some_and(|other| seen.contains(&other)) {
            let detail = "Approved and Denied conditions are mutually exclusive";
            errors.push(FieldError::invalid(list, kind.text(), detail));
        }
        if seen.contains(&kind.text()) {
            errors.push(FieldError::duplicate(&kind, kind.text()));
        }
        seen.push(kind.text());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signer_names() {
        let check = |name: &str, expected: &[&str]| {
            let (value, mut errors) = (Value::from(name), Errors::new());
            signer_name(&At::placed("s", &value), &mut errors);
            let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(texts, expected, "{name}");
        };
        check("example.com/signer.x", &[]);
        check("", &["s: Required value"]);
        check(
            "example.com",
            &[
                r#"s: Invalid value: "example.com": must be a fully qualified domain and path of the form 'example.com/signer-name'"#,
            ],
        );
        check(
            "local/x",
            &[
                r#"s: Invalid value: "local": should be a domain with at least two segments separated by dots"#,
            ],
        );
    }

    #[test]
    fn approval_may_add_conditions_and_nothing_else_may() {
        let request = |conditions: Value| json!({"status": {"conditions": conditions}});
        let approved = json!([{"type": "Approved", "status": "True"}]);
        let check = |part, new: &Value, old: &Value, expected: &[&str]| {
            let mut errors = Errors::new();
            changes(&request(new.clone()), &request(old.clone()), part, &mut errors);
            let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(texts, expected);
        };
        let none = json!([]);
        check(Part::Approval, &approved, &none, &[]);
        let added = [r#"status.conditions: Forbidden: updates may not add a condition of type "Approved""#];
        check(Part::Status, &approved, &none, &added);
        let removed =
            [r#"status.conditions: Forbidden: updates may not remove a condition of type "Approved""#];
        check(Part::Approval, &none, &approved, &removed);
    }
}
