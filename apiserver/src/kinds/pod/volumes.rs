//! Volumes of a pod.

use machinery::status::FieldError;
use rustc_hash::{FxHashMap, FxHashSet};

use super::env::{VOLUME_FIELDS, descending_path, field_ref, no_backsteps, non_reserved_path, resource_ref};
use crate::kinds::at::At;
use crate::kinds::checks::{Errors, named, quantity};

/// The valid volumes of a pod with the member that is their source.
pub type VolumeNames = FxHashMap<String, String>;

const TOKEN_LIFE_MIN_SECS: i64 = 600;
const TOKEN_LIFE_MAX_SECS: i64 = 1 << 32;
const PROJECTIONS: [&str; 6] =
    ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"];

/// Checks every volume; only those without errors can be mounted.
pub fn check(volumes: &At<'_, '_>, errors: &mut Errors) -> VolumeNames {
    let mut names = VolumeNames::default();
    for volume in volumes.items() {
        let before = errors.len();
        let source = source(&volume, errors);
        let name = volume.get("name");
        if !name.has() {
            errors.push(FieldError::required(&name, ""));
        } else {
            errors.extend(named("label", &name));
        }
        if names.contains_key(name.text()) {
            errors.push(FieldError::duplicate(&name, name.text()));
        }
        if errors.len() == before {
            names.insert(name.text().to_owned(), source);
        }
    }
    names
}

/// Exactly one source; its name.
fn source(volume: &At<'_, '_>, errors: &mut Errors) -> String {
    let sources: Vec<(&str, At<'_, '_>)> =
        volume.entries().filter(|(key, value)| *key != "name" && value.is_set()).collect();
    let mut first = String::new();
    for (index, (key, _)) in sources.iter().enumerate() {
        let at = volume.get(key);
        if index > 0 {
            errors.push(FieldError::forbidden(&at, "may not specify more than 1 volume type"));
        } else {
            first = (*key).to_owned();
            one(key, &at, errors);
        }
    }
    if sources.is_empty() {
        errors.push(FieldError::required(volume, "must specify a volume type"));
    }
    first
}

fn one(kind: &str, at: &At<'_, '_>, errors: &mut Errors) {
    match kind {
        "emptyDir" => {
            let limit = at.get("sizeLimit");
            if quantity(limit.value).is_some_and(|limit| limit.sign() < 0) {
                errors
                    .push(FieldError::forbidden(&limit, "SizeLimit field must be a valid resource quantity"));
            }
        }
        "hostPath" => errors.extend(no_backsteps(&at.get("path"))),
        "gitRepo" => errors.extend(descending_path(&at.get("directory"))),
        "secret" | "configMap" => key_paths(&at.get("items"), errors),
        "downwardAPI" => at.get("items").items().for_each(|file| downward_file(at, &file, errors)),
        "projected" => projected(at, errors),
        "nfs" if at.get("path").has() && !at.get("path").text().starts_with('/') => {
            let path = at.get("path");
            errors.push(FieldError::invalid(&path, path.text(), "must be an absolute path"));
        }
        "csi" => csi(at, errors),
        "ephemeral" if !at.get("volumeClaimTemplate").is_set() => {
            errors.push(FieldError::required(&at.get("volumeClaimTemplate"), ""));
        }
        "image" => {
            let (reference, policy) = (at.get("reference"), at.get("pullPolicy"));
            if !reference.has() {
                errors.push(FieldError::required(&reference, ""));
            }
            if !matches!(policy.text(), "Always" | "IfNotPresent" | "Never") {
                let supported = ["Always", "IfNotPresent", "Never"];
                errors.push(FieldError::not_supported(&policy, policy.text(), &supported));
            }
        }
        _ => {}
    }
}

fn csi(at: &At<'_, '_>, errors: &mut Errors) {
    let secret = at.get("nodePublishSecretRef");
    if secret.is_set() && !secret.get("name").has() {
        errors.push(FieldError::required(&secret.get("name"), ""));
    }
}

fn key_paths(items: &At<'_, '_>, errors: &mut Errors) {
    items.items().for_each(|item| errors.extend(non_reserved_path(&item.get("path"))));
}

/// Upstream places errors of the file's own fields at the volume.
fn downward_file(place: &At<'_, '_>, file: &At<'_, '_>, errors: &mut Errors) {
    let path = file.get("path");
    let own = place.get("path").with(path.value);
    if !path.has() {
        errors.push(FieldError::required(&own, ""));
    }
    errors.extend(non_reserved_path(&own));
    let (field, resource) = (file.get("fieldRef"), file.get("resourceFieldRef"));
    if field.is_set() {
        field_ref(&place.get("fieldRef").with(field.value), &VOLUME_FIELDS, errors);
        if resource.is_set() {
            let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
            errors.push(FieldError::invalid(place, "resource", detail));
        }
    } else if resource.is_set() {
        resource_ref(&place.get("resourceFieldRef").with(resource.value), true, errors);
    } else {
        errors.push(FieldError::required(place, "one of fieldRef and resourceFieldRef is required"));
    }
}

fn projected(at: &At<'_, '_>, errors: &mut Errors) {
    let mut paths = FxHashSet::default();
    for source in at.get("sources").items() {
        let set: Vec<&&str> = PROJECTIONS.iter().filter(|kind| source.get(kind).is_set()).collect();
        for kind in &set {
            let projection = source.get(kind);
            match **kind {
                "secret" | "configMap" => key_paths(&projection.get("items"), errors),
                "downwardAPI" => {
                    projection
                        .get("items")
                        .items()
                        .for_each(|file| downward_file(&projection, &file, errors));
                }
                "serviceAccountToken" => token(at, &projection, errors),
                _ => {}
            }
            let name = projection.get("name").text();
            for item in projection.get("items").items() {
                let path = item.get("path").text();
                if !path.is_empty() && !paths.insert(path.to_owned()) {
                    let shown = if name.is_empty() { path } else { name };
                    errors.push(FieldError::invalid(at, shown, "conflicting duplicate paths"));
                }
            }
        }
        if set.len() > 1 {
            let detail = "may not specify more than 1 volume type per source";
            errors.push(FieldError::forbidden(&source, detail));
        }
    }
}

fn token(volume: &At<'_, '_>, at: &At<'_, '_>, errors: &mut Errors) {
    let life = at.get("expirationSeconds");
    if let Some(secs) = life.int() {
        if secs < TOKEN_LIFE_MIN_SECS {
            errors.push(FieldError::invalid(&life, secs, "may not specify a duration less than 10 minutes"));
        }
        if secs > TOKEN_LIFE_MAX_SECS {
            errors.push(FieldError::invalid(
                &life,
                secs,
                "may not specify a duration larger than 2^32 seconds",
            ));
        }
    }
    let path = volume.get("path").with(at.get("path").value);
    if !path.has() {
        errors.push(FieldError::required(&path, ""));
    } else {
        errors.extend(non_reserved_path(&path));
    }
}
