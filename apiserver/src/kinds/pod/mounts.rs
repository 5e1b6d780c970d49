//! Volume mounts and devices of a container.

use machinery::status::FieldError;
use rustc_hash::FxHashSet;

use super::env::{descending_path, no_backsteps};
use super::volumes::VolumeNames;
use crate::kinds::at::At;
use crate::kinds::checks::Errors;
use crate::kinds::json::flag;

const PROPAGATIONS: [&str; 3] = ["Bidirectional", "HostToContainer", "None"];
const RECURSIVE: [&str; 3] = ["Disabled", "Enabled", "IfPossible"];

/// `volumeMounts`.
pub fn mounts(container: &At<'_, '_>, volumes: &VolumeNames, errors: &mut Errors) {
    let list = container.get("volumeMounts");
    let devices = container.get("volumeDevices");
    let mut paths = FxHashSet::default();
    for mount in list.items() {
        let (name, path) = (mount.get("name"), mount.get("mountPath"));
        if !name.has() {
            errors.push(FieldError::required(&name, ""));
        }
        if !volumes.contains_key(name.text()) {
            errors.push(FieldError::not_found(&name, name.text()));
        }
        if !path.has() {
            errors.push(FieldError::required(&path, ""));
        }
        if !paths.insert(path.text()) {
            errors.push(FieldError::invalid(&path, path.text(), "must be unique"));
        }
        if devices.items().any(|device| device.get("name").text() == name.text()) {
            errors.push(FieldError::invalid(&name, name.text(), "must not already exist in volumeDevices"));
        }
        if devices.items().any(|device| device.get("devicePath").text() == path.text()) {
            let detail = "must not already exist as a path in volumeDevices";
            errors.push(FieldError::invalid(&path, path.text(), detail));
        }
        sub_paths(&list, &mount, errors);
        propagation(&list, &mount, container, errors);
    }
}

/// Upstream places these errors at the list, not at the mount.
fn sub_paths(list: &At<'_, '_>, mount: &At<'_, '_>, errors: &mut Errors) {
    let (plain, expression) = (mount.get("subPath"), mount.get("subPathExpr"));
    let at_list = |name: &str, at: &At<'_, '_>| {
        let place = format!("{list}.{name}");
        descending_path(at).into_iter().map(move |error| FieldError { field: place.clone(), ..error })
    };
    if plain.has() {
        errors.extend(at_list("subPath", &plain));
    }
    if expression.has() {
        if plain.has() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            errors.push(FieldError::invalid(&expression, expression.text(), detail));
        }
        errors.extend(at_list("subPathExpr", &expression));
    }
}

fn propagation(list: &At<'_, '_>, mount: &At<'_, '_>, container: &At<'_, '_>, errors: &mut Errors) {
    let (mode, recursive) = (mount.get("mountPropagation"), mount.get("recursiveReadOnly"));
    let place = format!("{list}.mountPropagation");
    if mode.is_set() && !PROPAGATIONS.contains(&mode.text()) {
        errors.push(FieldError::not_supported(&place, mode.text(), &PROPAGATIONS));
    }
    let privileged = flag(container.value, &["securityContext", "privileged"]) == Some(true);
    if mode.text() == "Bidirectional" && !privileged {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        errors.push(FieldError::forbidden(&place, detail));
    }
    let place = format!("{list}.recursiveReadOnly");
    match recursive.text() {
        "" | "Disabled" => {}
        "Enabled" | "IfPossible" => {
            if flag(mount.value, &["readOnly"]) != Some(true) {
                errors.push(FieldError::forbidden(&place, "may only be specified when readOnly is true"));
            }
            if !matches!(mode.text(), "" | "None") {
                let detail = "may only be specified when mountPropagation is None or not specified";
                errors.push(FieldError::forbidden(&place, detail));
            }
        }
        other => errors.push(FieldError::not_supported(&place, other, &RECURSIVE)),
    }
}

/// `volumeDevices`.
pub fn devices(container: &At<'_, '_>, volumes: &VolumeNames, errors: &mut Errors) {
    let mounts = container.get("volumeMounts");
    let (mut names, mut paths) = (FxHashSet::default(), FxHashSet::default());
    for device in container.get("volumeDevices").items() {
        let (name, path) = (device.get("name"), device.get("devicePath"));
        let mut refuse =
            |at: &At<'_, '_>, detail: &str| errors.push(FieldError::invalid(at, at.text(), detail));
        if name.has() && !names.insert(name.text()) {
            refuse(&name, "must be unique");
        }
        match volumes.get(name.text()).map(String::as_str) {
            Some("persistentVolumeClaim" | "ephemeral") => {}
            Some(_) => {
                refuse(
                    &name,
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
                );
            }
            None if name.has() => errors.push(FieldError::not_found(&name, name.text())),
            None => errors.push(FieldError::required(&name, "")),
        }
        if !path.has() {
            errors.push(FieldError::required(&path, ""));
        }
        let mut refuse =
            |at: &At<'_, '_>, detail: &str| errors.push(FieldError::invalid(at, at.text(), detail));
        if no_backsteps(&path).is_some() {
            refuse(&path, "can not contain backsteps ('..')");
        } else if !paths.insert(path.text()) {
            refuse(&path, "must be unique");
        }
        if mounts.items().any(|mount| mount.get("name").text() == name.text()) {
            refuse(&name, "must not already exist in volumeMounts");
        }
        if mounts.items().any(|mount| mount.get("mountPath").text() == path.text()) {
            refuse(&path, "must not already exist as a path in volumeMounts");
        }
    }
}
