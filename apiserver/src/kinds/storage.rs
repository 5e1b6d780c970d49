//! PersistentVolume, PersistentVolumeClaim and the classes around them.

use machinery::quantity::Quantity;
use machinery::status::FieldError;
use serde_json::{Value, json};

use super::at::At;
use super::checks::{self, Errors, positive_quantity, quantity};
use super::json::{at, entries, has, is_set, items, keep, remove, same, set, set_if_null, set_if_zero, text};
use super::kind::Kind;
use crate::contract::{Object, RequestContext};

const GROUP: &str = "storage.k8s.io";
const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const BINDING_MODES: [&str; 2] = ["Immediate", "WaitForFirstConsumer"];
const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
/// The members of a PersistentVolume's spec that are not its source.
const NOT_A_SOURCE: [&str; 9] = [
    "capacity",
    "accessModes",
    "claimRef",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "mountOptions",
    "volumeMode",
    "nodeAffinity",
    "volumeAttributesClassName",
];

/// The rows of these kinds.
pub const KINDS: &[Kind] = &[
    Kind { create: create_volume, check: check_volume, ..Kind::new("", "persistentvolumes") },
    Kind {
        create: create_claim,
        default: default_claim,
        update: update_claim,
        check: check_claim,
        ..Kind::new("", "persistentvolumeclaims")
    },
    Kind { check: check_class, ..Kind::new(GROUP, "storageclasses") },
    Kind { check: check_attributes_class, ..Kind::new(GROUP, "volumeattributesclasses") },
    Kind { check: check_driver, ..Kind::new(GROUP, "csidrivers") },
    Kind { check: check_csi_node, ..Kind::new(GROUP, "csinodes") },
    Kind {
        create: |_, attachment| set(attachment, &["status"], json!({"attached": false})),
        check: check_attachment,
        ..Kind::new(GROUP, "volumeattachments")
    },
    Kind { check: check_capacity, ..Kind::new(GROUP, "csistoragecapacities") },
];

fn create_volume(ctx: &RequestContext, volume: &mut Object) {
    set(
        volume,
        &["status"],
        json!({
            "phase": "Pending",
            "lastPhaseTransitionTime": machinery::time::format_time(ctx.now),
        }),
    );
}

fn create_claim(_: &RequestContext, claim: &mut Object) {
    set(claim, &["status"], json!({"phase": "Pending"}));
    link_data_sources(claim);
}

fn update_claim(_: &RequestContext, claim: &mut Object, old: &Object) {
    if !is_set(old, &["spec", "dataSourceRef"]) && !is_set(old, &["spec", "dataSource"]) {
        return;
    }
    link_data_sources(claim);
}

/// The old field of a data source and the new one follow each other.
fn link_data_sources(claim: &mut Object) {
    let (one, other) = (["spec", "dataSource"], ["spec", "dataSourceRef"]);
    if is_set(claim, &one) && !is_set(claim, &other) {
        let value = at(claim, &one).clone();
        set(claim, &other, value);
    } else if is_set(claim, &other)
        && !is_set(claim, &one)
        && !has(claim, &["spec", "dataSourceRef", "namespace"])
    {
        let mut value = at(claim, &other).clone();
        remove(&mut value, &["namespace"]);
        set(claim, &one, value);
    }
}

fn default_claim(claim: &mut Object) {
    set_if_null(claim, &["spec", "volumeMode"], "Filesystem");
    set_if_zero(claim, &["status", "phase"], "Pending");
}

fn access_modes(modes: &At<'_, '_>, errors: &mut Errors) {
    for mode in modes.items().filter(|mode| !ACCESS_MODES.contains(&mode.text())) {
        errors.push(FieldError::not_supported(modes, mode.text(), &ACCESS_MODES));
    }
    let alone = modes.items().any(|mode| mode.text() == "ReadWriteOncePod");
    let others =
        modes.items().any(|mode| mode.text() != "ReadWriteOncePod" && ACCESS_MODES.contains(&mode.text()));
    if alone && others {
        errors.push(FieldError::forbidden(modes, "may not use ReadWriteOncePod with other access modes"));
    }
}

fn check_volume(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let spec = root.get("spec");
    let (modes, capacity) = (spec.get("accessModes"), spec.get("capacity"));
    if modes.is_empty() {
        errors.push(FieldError::required(&modes, ""));
    }
    access_modes(&modes, errors);
    if capacity.is_empty() {
        errors.push(FieldError::required(&capacity, ""));
    }
    if !capacity.key("storage").is_set() || capacity.len() > 1 {
        errors.push(FieldError::not_supported(&capacity, capacity.value.clone(), &["storage"]));
    }
    capacity.entries().for_each(|(_, amount)| errors.extend(positive_quantity(&amount)));
    one_source(&spec, errors);
    let mode = spec.get("volumeMode");
    if mode.is_set() && !VOLUME_MODES.contains(&mode.text()) {
        errors.push(FieldError::not_supported(&mode, mode.text(), &VOLUME_MODES));
    }
    let root_path = matches!(text(new, &["spec", "hostPath", "path"]), "/");
    if root_path && text(new, &["spec", "persistentVolumeReclaimPolicy"]) == "Recycle" {
        let place = spec.get("persistentVolumeReclaimPolicy");
        errors.push(FieldError::forbidden(&place, "may not be 'recycle' for a hostPath mount of '/'"));
    }
    if let Some(old) = old {
        source_is_fixed(new, old, errors);
        errors.extend(checks::immutable(&mode, at(old, &["spec", "volumeMode"])).map(|error| FieldError {
            // The path is upstream's.
            field: "volumeMode".to_owned(),
            ..error
        }));
    }
}

fn sources(volume: &Value) -> Value {
    let own =
        entries(volume, &["spec"]).filter(|(name, value)| !NOT_A_SOURCE.contains(name) && !value.is_null());
    Value::Object(own.map(|(name, value)| (name.to_owned(), value.clone())).collect())
}

fn one_source(spec: &At<'_, '_>, errors: &mut Errors) {
    let names: Vec<&str> = entries(spec.value, &[])
        .filter(|(name, v)| !NOT_A_SOURCE.contains(name) && !v.is_null())
        .map(|(n, _)| n)
        .collect();
    for extra in names.iter().skip(1) {
        errors.push(FieldError::forbidden(&spec.get(extra), "may not specify more than 1 volume type"));
    }
    match names.first() {
        None => errors.push(FieldError::required(spec, "must specify a volume type")),
        Some(&"csi") => {
            let csi = spec.get("csi");
            for field in ["driver", "volumeHandle"] {
                if !csi.get(field).has() {
                    errors.push(FieldError::required(&csi.get(field), ""));
                }
            }
        }
        Some(&"local") if !is_set(spec.value, &["nodeAffinity"]) => {
            errors
                .push(FieldError::required(&spec.get("nodeAffinity"), "Local volume requires node affinity"));
        }
        Some(_) => {}
    }
}

fn source_is_fixed(new: &Object, old: &Object, errors: &mut Errors) {
    let (mut now, before) = (sources(new), sources(old));
    let secret = ["csi", "controllerExpandSecretRef"];
    if is_set(&before, &["csi"]) && !is_set(&before, &secret) {
        remove(&mut now, &secret);
    }
    if !same(&now, &before) {
        let text = |value: &Value| machinery::gotext::json(value);
        let detail = format!(
            "spec.persistentvolumesource is immutable after creation\n- {}\n+ {}",
            text(&before),
            text(&now)
        );
        errors.push(FieldError::forbidden(&"spec.persistentvolumesource", detail));
    }
}

fn check_claim(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    claim_spec(&root.get("spec"), errors);
    if let Some(old) = old {
        claim_changes(new, old, errors);
    }
}

/// The spec of a claim or of a claim template.
pub fn claim_spec(spec: &At<'_, '_>, errors: &mut Errors) {
    let modes = spec.get("accessModes");
    if modes.is_empty() {
        errors.push(FieldError::required(&modes, "at least 1 access mode is required"));
    }
    errors.extend(checks::label_selector(&spec.get("selector")));
    access_modes(&modes, errors);
    let resources = spec.get("resources");
    let size = resources.key("storage").with(at(spec.value, &["resources", "requests", "storage"]));
    if !size.is_set() {
        errors.push(FieldError::required(&size, ""));
    }
    errors.extend(positive_quantity(&size));
    let mode = spec.get("volumeMode");
    if mode.is_set() && !VOLUME_MODES.contains(&mode.text()) {
        errors.push(FieldError::not_supported(&mode, mode.text(), &VOLUME_MODES));
    }
    for name in ["storageClassName", "volumeAttributesClassName"] {
        let class = spec.get(name);
        if class.has() {
            errors.extend(checks::named("subdomain", &class));
        }
    }
    for name in ["dataSource", "dataSourceRef"] {
        data_source(&spec.get(name), errors);
    }
}

fn data_source(source: &At<'_, '_>, errors: &mut Errors) {
    if !source.is_set() {
        return;
    }
    for field in ["name", "kind"] {
        if !source.get(field).has() {
            errors.push(FieldError::required(&source.get(field), ""));
        }
    }
    let (group, kind) = (source.get("apiGroup"), source.get("kind"));
    if !group.has() && kind.text() != "PersistentVolumeClaim" {
        let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        errors.push(FieldError::invalid(source, kind.text(), detail));
    } else if group.has() {
        errors.extend(checks::named("subdomain", &group));
    }
}

fn claim_changes(new: &Object, old: &Object, errors: &mut Errors) {
    let mut masked = new.clone();
    let bound = text(old, &["status", "phase"]) == "Bound";
    if !has(old, &["spec", "volumeName"]) {
        remove(&mut masked, &["spec", "volumeName"]);
    }
    let annotated = text(old, &["metadata", "annotations", CLASS_ANNOTATION]);
    let class = text(new, &["spec", "storageClassName"]);
    if !is_set(old, &["spec", "storageClassName"]) && (annotated.is_empty() || annotated == class) {
        remove(&mut masked, &["spec", "storageClassName"]);
    }
    if bound {
        keep(&mut masked, old, &["spec", "resources", "requests"]);
        keep(&mut masked, old, &["spec", "volumeAttributesClassName"]);
    }
    let (now, before) = (at(&masked, &["spec"]), at(old, &["spec"]));
    if !same(now, before) {
        let text = |value: &Value| machinery::gotext::json(value);
        let detail = format!(
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n- {}\n+ {}",
            text(before),
            text(now)
        );
        errors.push(FieldError::forbidden(&"spec", detail));
    }
    let size = |claim: &Object, path: &[&str]| -> Quantity { quantity(at(claim, path)).unwrap_or_default() };
    let path = ["spec", "resources", "requests", "storage"];
    if size(new, &path) < size(old, &path)
        && size(new, &path) <= size(old, &["status", "capacity", "storage"])
    {
        let detail = "field can not be less than status.capacity";
        errors.push(FieldError::forbidden(&path.join("."), detail));
    }
}

fn check_class(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let provisioner = root.get("provisioner");
    if !provisioner.has() {
        errors.push(FieldError::required(&provisioner, ""));
    } else {
        let lower = json!(provisioner.text().to_lowercase());
        errors.extend(checks::named("qualified", &provisioner.with(&lower)));
    }
    for (key, value) in root.get("parameters").entries().filter(|(key, _)| key.is_empty()) {
        errors.push(FieldError::invalid(&value, key, "field can not be empty."));
    }
    for (field, values) in [("reclaimPolicy", ["Delete", "Retain"]), ("volumeBindingMode", BINDING_MODES)] {
        let value = root.get(field);
        if value.is_set() && !values.contains(&value.text()) {
            errors.push(FieldError::not_supported(&value, value.text(), &values));
        }
    }
    for term in root.get("allowedTopologies").items() {
        let expressions = term.get("matchLabelExpressions");
        for expression in expressions.items() {
            let (key, values) = (expression.get("key"), expression.get("values"));
            if values.is_empty() {
                errors.push(FieldError::required(&values, ""));
            }
            errors.extend(checks::named("qualified", &key));
        }
    }
    if let Some(old) = old {
        for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
            errors.extend(checks::immutable(&root.get(field), at(old, &[field])));
        }
    }
}

fn check_attributes_class(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let driver = root.get("driverName");
    if !driver.has() {
        errors.push(FieldError::required(&driver, ""));
    }
    if !has(new, &["parameters"]) {
        let detail = "must contain at least one key/value pair";
        errors.push(FieldError::required(&root.get("parameters"), detail));
    }
    if let Some(old) = old {
        for field in ["driverName", "parameters"] {
            errors.extend(checks::immutable(&root.get(field), at(old, &[field])));
        }
    }
}

fn check_driver(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let spec = root.get("spec");
    let modes = spec.get("volumeLifecycleModes");
    for mode in modes.items().filter(|mode| !matches!(mode.text(), "Persistent" | "Ephemeral")) {
        errors.push(FieldError::not_supported(&modes, mode.text(), &["Persistent", "Ephemeral"]));
    }
    let tokens = spec.get("tokenRequests");
    for (index, token) in tokens.items().enumerate() {
        let audience = token.get("audience");
        if tokens.items().take(index).any(|before| before.get("audience").text() == audience.text()) {
            errors.push(FieldError::duplicate(&audience, audience.text()));
        }
    }
    let Some(old) = old else { return };
    for field in ["attachRequired", "fsGroupPolicy", "volumeLifecycleModes"] {
        if field != "fsGroupPolicy" {
            errors.extend(checks::immutable(&spec.get(field), at(old, &["spec", field])));
        }
    }
}

fn check_csi_node(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let spec = root.get("spec");
    let drivers = spec.get("drivers");
    errors.extend(checks::unique(&drivers, "name"));
    for driver in drivers.items() {
        for field in ["name", "nodeID"] {
            if !driver.get(field).has() {
                errors.push(FieldError::required(&driver.get(field), ""));
            }
        }
        for key in driver.get("topologyKeys").items() {
            let texts = machinery::names::qualified_name(key.text());
            errors.extend(texts.into_iter().map(|text| FieldError::invalid(&driver, key.text(), text)));
        }
        errors.extend(checks::non_negative(&driver.get("allocatable").get("count")));
    }
    let Some(old) = old else { return };
    for before in items(old, &["spec", "drivers"]) {
        let name = text(before, &["name"]);
        let now = drivers.items().find(|driver| driver.get("name").text() == name);
        if let Some(now) = now
            && !same(at(now.value, &["nodeID"]), at(before, &["nodeID"]))
        {
            errors.push(FieldError::invalid(&"spec", now.value.clone(), "field is immutable"));
        }
    }
}

fn check_attachment(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let spec = root.get("spec");
    let (attacher, node) = (spec.get("attacher"), spec.get("nodeName"));
    if !attacher.has() {
        errors.push(FieldError::required(&attacher, ""));
    }
    errors.extend(checks::named("subdomain", &node.with(&Value::from(node.text()))));
    let source = spec.get("source");
    let (inline, name) = (source.get("inlineVolumeSpec"), source.get("persistentVolumeName"));
    match (inline.is_set(), name.is_set()) {
        (false, false) => {
            errors.push(FieldError::required(
                &source,
                "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
            ));
        }
        (true, true) => {
            errors.push(FieldError::forbidden(
                &source,
                "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
            ));
        }
        _ => {}
    }
    if let Some(old) = old
        && !same(spec.value, at(old, &["spec"]))
    {
        errors.push(FieldError::invalid(&spec, spec.value.clone(), "field is immutable"));
    }
}

fn check_capacity(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    errors.extend(checks::named("subdomain", &root.get("storageClassName")));
    errors.extend(checks::label_selector(&root.get("nodeTopology")));
    for field in ["capacity", "maximumVolumeSize"] {
        errors.extend(checks::non_negative_quantity(&root.get(field)));
    }
    if let Some(old) = old {
        for field in ["nodeTopology", "storageClassName"] {
            errors.extend(checks::immutable(&root.get(field), at(old, &[field])));
        }
    }
}
