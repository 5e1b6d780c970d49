//! Facts about built-in resources that change how the pipeline treats them. Tables only.
//!
//! Source: the strategies of upstream 1.36 (`pkg/registry/*/strategy.go`) and its field label conversions.

use crate::cache::extract::FieldDef;

/// How deleting treats dependents when the request does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultPropagation {
    Background,
    Orphan,
    /// The resource takes no part in garbage collection.
    Unsupported,
}

/// What of the metadata a write to the status leaves as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusKeeps {
    Nothing,
    Labels,
    /// All of it (upstream `ResetObjectMetaForStatus`).
    Metadata,
}

/// What the pipeline needs to know beyond the schema.
#[derive(Clone, Debug)]
pub struct Facts {
    /// `metadata.generation` is kept: 1 at creation, one more with every change outside metadata and status.
    pub generation: bool,
    /// A change of annotations counts for it, too.
    pub generation_of_annotations: bool,
    /// What of the metadata a write to the status leaves as it was.
    pub status_keeps: StatusKeeps,
    /// A finished deletion answers with the object and not with a Status.
    pub returns_deleted: bool,
    /// The status of a create request is kept.
    pub status_on_create: bool,
    pub create_on_update: bool,
    /// An update without resourceVersion overwrites.
    pub unconditional_update: bool,
    pub propagation: DefaultPropagation,
    /// Objects vanish by themselves after `--event-ttl`.
    pub expires: bool,
    pub fields: Vec<FieldDef>,
    pub indexed_field: Option<&'static str>,
}

impl Facts {
    /// The facts of a built-in resource.
    pub fn builtin(group: &str, resource: &str) -> Self {
        let id = (group, resource);
        Self {
            generation: GENERATION.contains(&id),
            generation_of_annotations: id == ("apps", "deployments"),
            status_keeps: match id {
                ("apps", "deployments") => StatusKeeps::Labels,
                _ if STATUS_KEEPS_METADATA.contains(&id) => StatusKeeps::Metadata,
                _ => StatusKeeps::Nothing,
            },
            returns_deleted: RETURNS_DELETED.contains(&id),
            status_on_create: id == ("", "nodes"),
            create_on_update: CREATE_ON_UPDATE.contains(&id),
            unconditional_update: !CONDITIONAL_ONLY.contains(&id),
            propagation: match id {
                ("batch", "jobs") | ("", "replicationcontrollers") => DefaultPropagation::Orphan,
                ("" | "events.k8s.io", "events") => DefaultPropagation::Unsupported,
                _ => DefaultPropagation::Background,
            },
            expires: resource == "events" && matches!(group, "" | "events.k8s.io"),
            fields: fields(group, resource),
            indexed_field: match id {
                ("", "pods") => Some("spec.nodeName"),
                ("", "events") => Some("involvedObject.uid"),
                _ => None,
            },
        }
    }

    /// The facts of a custom resource with these selectable fields.
    pub fn custom(fields: Vec<FieldDef>) -> Self {
        Self {
            generation: true,
            generation_of_annotations: false,
            status_keeps: StatusKeeps::Metadata,
            returns_deleted: false,
            status_on_create: false,
            create_on_update: false,
            unconditional_update: false,
            propagation: DefaultPropagation::Background,
            expires: false,
            fields,
            indexed_field: None,
        }
    }
}

type Id = (&'static str, &'static str);

const GENERATION: &[Id] = &[
    ("", "pods"),
    ("", "podtemplates"),
    ("", "replicationcontrollers"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings"),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("apps", "daemonsets"),
    ("apps", "deployments"),
    ("apps", "replicasets"),
    ("apps", "statefulsets"),
    ("batch", "cronjobs"),
    ("batch", "jobs"),
    ("discovery.k8s.io", "endpointslices"),
    ("flowcontrol.apiserver.k8s.io", "flowschemas"),
    ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations"),
    ("networking.k8s.io", "ingressclasses"),
    ("networking.k8s.io", "ingresses"),
    ("networking.k8s.io", "networkpolicies"),
    ("policy", "poddisruptionbudgets"),
    ("resource.k8s.io", "deviceclasses"),
    ("resource.k8s.io", "devicetaintrules"),
    ("resource.k8s.io", "resourceslices"),
    ("scheduling.k8s.io", "priorityclasses"),
];

const STATUS_KEEPS_METADATA: &[Id] = &[
    ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
    ("apiregistration.k8s.io", "apiservices"),
    ("flowcontrol.apiserver.k8s.io", "flowschemas"),
    ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations"),
    ("networking.k8s.io", "servicecidrs"),
    ("resource.k8s.io", "resourceclaims"),
    ("storage.k8s.io", "volumeattachments"),
];

const RETURNS_DELETED: &[Id] = &[
    ("", "namespaces"),
    ("", "persistentvolumeclaims"),
    ("", "persistentvolumes"),
    ("", "pods"),
    ("", "podtemplates"),
    ("", "resourcequotas"),
    ("", "serviceaccounts"),
    ("", "services"),
    ("resource.k8s.io", "deviceclasses"),
    ("resource.k8s.io", "devicetaintrules"),
    ("resource.k8s.io", "resourceclaims"),
    ("resource.k8s.io", "resourceclaimtemplates"),
    ("resource.k8s.io", "resourceslices"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "storageclasses"),
    ("storage.k8s.io", "volumeattachments"),
    ("storage.k8s.io", "volumeattributesclasses"),
];

const CREATE_ON_UPDATE: &[Id] = &[
    ("", "endpoints"),
    ("", "events"),
    ("", "limitranges"),
    ("", "services"),
    ("events.k8s.io", "events"),
    ("coordination.k8s.io", "leases"),
    ("node.k8s.io", "runtimeclasses"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "rolebindings"),
    ("rbac.authorization.k8s.io", "roles"),
];

const CONDITIONAL_ONLY: &[Id] = &[
    ("admissionregistration.k8s.io", "mutatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings"),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("apiregistration.k8s.io", "apiservices"),
    ("coordination.k8s.io", "leases"),
    ("node.k8s.io", "runtimeclasses"),
    ("policy", "poddisruptionbudgets"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "csistoragecapacities"),
    ("storage.k8s.io", "volumeattachments"),
];

/// Group, resource, selector name, path in the stored object, default.
const FIELDS: &[(&str, &str, &str, &str, &str)] = &[
    ("", "pods", "spec.nodeName", "spec.nodeName", ""),
    ("", "pods", "spec.restartPolicy", "spec.restartPolicy", ""),
    ("", "pods", "spec.schedulerName", "spec.schedulerName", ""),
    ("", "pods", "spec.serviceAccountName", "spec.serviceAccountName", ""),
    ("", "pods", "spec.hostNetwork", "spec.hostNetwork", "false"),
    ("", "pods", "status.phase", "status.phase", ""),
    ("", "pods", "status.podIP", "status.podIP", ""),
    ("", "pods", "status.podIPs", "status.podIP", ""),
    ("", "pods", "status.nominatedNodeName", "status.nominatedNodeName", ""),
    ("", "nodes", "spec.unschedulable", "spec.unschedulable", "false"),
    ("", "replicationcontrollers", "status.replicas", "status.replicas", "0"),
    ("", "events", "involvedObject.kind", "involvedObject.kind", ""),
    ("", "events", "involvedObject.namespace", "involvedObject.namespace", ""),
    ("", "events", "involvedObject.name", "involvedObject.name", ""),
    ("", "events", "involvedObject.uid", "involvedObject.uid", ""),
    ("", "events", "involvedObject.apiVersion", "involvedObject.apiVersion", ""),
    ("", "events", "involvedObject.resourceVersion", "involvedObject.resourceVersion", ""),
    ("", "events", "involvedObject.fieldPath", "involvedObject.fieldPath", ""),
    ("", "events", "reason", "reason", ""),
    ("", "events", "reportingComponent", "reportingComponent", ""),
    ("", "events", "source", "source.component", ""),
    ("", "events", "type", "type", ""),
    ("", "namespaces", "status.phase", "status.phase", ""),
    ("", "secrets", "type", "type", ""),
    ("", "services", "spec.clusterIP", "spec.clusterIP", ""),
    ("", "services", "spec.type", "spec.type", ""),
    ("apps", "replicasets", "status.replicas", "status.replicas", "0"),
    ("batch", "jobs", "status.successful", "status.succeeded", "0"),
    ("certificates.k8s.io", "certificatesigningrequests", "spec.signerName", "spec.signerName", ""),
    ("resource.k8s.io", "resourceslices", "spec.nodeName", "spec.nodeName", ""),
    ("resource.k8s.io", "resourceslices", "spec.driver", "spec.driver", ""),
];

fn fields(group: &str, resource: &str) -> Vec<FieldDef> {
    let of = FIELDS.iter().filter(|f| f.0 == group && f.1 == resource);
    let defs = of.map(|(_, _, name, path, default)| FieldDef::new(name, path, default));
    // Events of the new API name their source elsewhere.
    let second = |def: FieldDef| if def.name == "source" { def.or("reportingComponent") } else { def };
    defs.map(second).collect()
}

/// What a field selector of `events.k8s.io` calls a field of the stored event; pods also have one old name.
pub fn field_alias(group: &str, resource: &str, field: &str) -> Option<String> {
    match (group, resource) {
        ("events.k8s.io", "events") => match field.strip_prefix("regarding.") {
            Some(rest) => Some(format!("involvedObject.{rest}")),
            None if field == "reportingController" => Some("reportingComponent".to_owned()),
            None => None,
        },
        ("", "pods") if field == "spec.host" => Some("spec.nodeName".to_owned()),
        _ => None,
    }
}

/// The text that answers a selector on a field the resource does not have.
pub fn unknown_field(group: &str, resource: &str, is_custom: bool, field: &str) -> String {
    if is_custom || (resource != "jobs" && FIELDS.iter().any(|f| f.0 == group && f.1 == resource)) {
        return format!("field label not supported: {field}");
    }
    if resource == "jobs" {
        return format!("field label {field:?} not supported for Job");
    }
    format!("{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
}
