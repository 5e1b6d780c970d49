//! The columns of every built-in kind.

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::Value;

use super::cells::*;
use super::parts::*;
use super::{Column, pods, workloads};

type Cell = fn(&Value, Timestamp) -> Value;

/// A column and what fills it.
struct Definition {
    name: &'static str,
    type_name: &'static str,
    format: &'static str,
    priority: i64,
    cell: Cell,
}

const fn col(name: &'static str, type_name: &'static str, cell: Cell) -> Definition {
    Definition { name, type_name, format: "", priority: 0, cell }
}

/// Only with `-o wide`.
const fn wide(name: &'static str, cell: Cell) -> Definition {
    Definition { name, type_name: "string", format: "", priority: 1, cell }
}

const fn named(cell: Cell) -> Definition {
    Definition { name: "Name", type_name: "string", format: "name", priority: 0, cell }
}

const NAME: Definition = named(|o, _| text(o, "metadata.name").into());
const AGE: Definition = col("Age", "string", |o, now| age(o, now).into());
const CONTAINERS: Definition =
    wide("Containers", |o, _| containers(at(o, "spec.template.spec"), "name").into());
const IMAGES: Definition = wide("Images", |o, _| containers(at(o, "spec.template.spec"), "image").into());
const SELECTOR: Definition = wide("Selector", |o, _| selector(at(o, "spec.selector")).into());

/// The columns of one kind.
pub struct Printer(&'static [Definition]);

impl Printer {
    pub fn columns(&self) -> Vec<Column> {
        let column = |d: &Definition| Column {
            name: Cow::Borrowed(d.name),
            type_name: Cow::Borrowed(d.type_name),
            format: Cow::Borrowed(d.format),
            description: Cow::Borrowed(if d.name == "Name" { NAME_DESCRIPTION } else { "" }),
            priority: d.priority,
        };
        self.0.iter().map(column).collect()
    }

    pub fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        self.0.iter().map(|d| (d.cell)(object, now)).collect()
    }
}

/// The columns of a built-in resource; those without a table of their own show name and creation.
pub fn find(group: &str, resource: &str) -> Printer {
    let found = TABLES.iter().find(|(g, r, _)| *g == group && *r == resource);
    Printer(found.map_or(DEFAULT, |(_, _, columns)| columns))
}

/// Row conditions, which only pods have.
pub fn row_conditions(group: &str, resource: &str, object: &Value) -> Option<Value> {
    if group.is_empty() && resource == "pods" { pods::row_conditions(object) } else { None }
}

const DEFAULT: &[Definition] =
    &[NAME, col("Created At", "date", |o, _| text(o, "metadata.creationTimestamp").into())];
const NAME_AGE: &[Definition] = &[NAME, AGE];
const REPLICAS: &[Definition] = &[
    NAME,
    col("Desired", "integer", |o, _| int(o, "spec.replicas").into()),
    col("Current", "integer", |o, _| int(o, "status.replicas").into()),
    col("Ready", "integer", |o, _| int(o, "status.readyReplicas").into()),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
const EVENTS: &[Definition] = &[
    col("Last Seen", "string", |o, now| event_time(o, true, now).into()),
    col("Type", "string", |o, _| text(o, "type").into()),
    col("Reason", "string", |o, _| text(o, "reason").into()),
    col("Object", "string", |o, _| {
        format!("{}/{}", text(o, "involvedObject.kind").to_lowercase(), text(o, "involvedObject.name")).into()
    }),
    wide("Subobject", |o, _| text(o, "involvedObject.fieldPath").into()),
    wide("Source", |o, _| event_source(o).into()),
    col("Message", "string", |o, _| text(o, "message").trim().into()),
    wide("First Seen", |o, now| event_time(o, false, now).into()),
    wide("Count", |o, _| event_count(o).into()),
    wide("Name", |o, _| text(o, "metadata.name").into()),
];
/// The same of `events.k8s.io`, whose fields have other names.
const NEW_EVENTS: &[Definition] = &[
    col("Last Seen", "string", |o, now| event_time(&stored_event(o), true, now).into()),
    col("Type", "string", |o, _| text(o, "type").into()),
    col("Reason", "string", |o, _| text(o, "reason").into()),
    col("Object", "string", |o, _| {
        format!("{}/{}", text(o, "regarding.kind").to_lowercase(), text(o, "regarding.name")).into()
    }),
    wide("Subobject", |o, _| text(o, "regarding.fieldPath").into()),
    wide("Source", |o, _| event_source(&stored_event(o)).into()),
    col("Message", "string", |o, _| text(o, "note").trim().into()),
    wide("First Seen", |o, now| event_time(&stored_event(o), false, now).into()),
    wide("Count", |o, _| event_count(&stored_event(o)).into()),
    wide("Name", |o, _| text(o, "metadata.name").into()),
];

const BINDINGS: &[Definition] = &[
    NAME,
    col("Role", "string", |o, _| role_ref(o).into()),
    AGE,
    wide("Users", |o, _| subjects(o, "User").into()),
    wide("Groups", |o, _| subjects(o, "Group").into()),
    wide("ServiceAccounts", |o, _| subjects(o, "ServiceAccount").into()),
];
const WEBHOOKS: &[Definition] =
    &[NAME, col("Webhooks", "integer", |o, _| list(o, "webhooks").len().into()), AGE];

const POLICY_BINDINGS: &[Definition] = &[
    NAME,
    col("PolicyName", "string", |o, _| text(o, "spec.policyName").into()),
    col("ParamRef", "string", |o, _| param_ref(o).into()),
    AGE,
];

#[rustfmt::skip]
static TABLES: &[(&str, &str, &[Definition])] = &[
    ("", "pods", &[
        NAME,
        col("Ready", "string", |o, _| { let s = pods::summary(o); format!("{}/{}", s.ready, s.total).into() }),
        col("Status", "string", |o, _| pods::summary(o).status.into()),
        col("Restarts", "string", |o, now| pods::restarts(o, now).into()),
        AGE,
        wide("IP", |o, _| or(text(o, "status.podIP"), "<none>").into()),
        wide("Node", |o, _| or(text(o, "spec.nodeName"), "<none>").into()),
        wide("Nominated Node", |o, _| or(text(o, "status.nominatedNodeName"), "<none>").into()),
        wide("Readiness Gates", |o, _| pods::readiness_gates(o).into()),
    ]),
    ("", "podtemplates", &[
        NAME,
        col("Containers", "string", |o, _| containers(at(o, "template.spec"), "name").into()),
        col("Images", "string", |o, _| containers(at(o, "template.spec"), "image").into()),
        col("Pod Labels", "string", |o, _| labels(at(o, "template.metadata.labels")).into()),
    ]),
    ("policy", "poddisruptionbudgets", &[
        NAME,
        col("Min Available", "string", |o, _| int_or_percent(at(o, "spec.minAvailable")).into()),
        col("Max Unavailable", "string", |o, _| int_or_percent(at(o, "spec.maxUnavailable")).into()),
        col("Allowed Disruptions", "integer", |o, _| int(o, "status.disruptionsAllowed").into()),
        AGE,
    ]),
    ("", "replicationcontrollers", &[
        NAME,
        col("Desired", "integer", |o, _| int(o, "spec.replicas").into()),
        col("Current", "integer", |o, _| int(o, "status.replicas").into()),
        col("Ready", "integer", |o, _| int(o, "status.readyReplicas").into()),
        AGE, CONTAINERS, IMAGES,
        wide("Selector", |o, _| labels(at(o, "spec.selector")).into()),
    ]),
    ("apps", "replicasets", REPLICAS),
    ("apps", "daemonsets", &[
        NAME,
        col("Desired", "integer", |o, _| int(o, "status.desiredNumberScheduled").into()),
        col("Current", "integer", |o, _| int(o, "status.currentNumberScheduled").into()),
        col("Ready", "integer", |o, _| int(o, "status.numberReady").into()),
        col("Up-to-date", "integer", |o, _| int(o, "status.updatedNumberScheduled").into()),
        col("Available", "integer", |o, _| int(o, "status.numberAvailable").into()),
        col("Node Selector", "string", |o, _| labels(at(o, "spec.template.spec.nodeSelector")).into()),
        AGE, CONTAINERS, IMAGES, SELECTOR,
    ]),
    ("apps", "deployments", &[
        NAME,
        col("Ready", "string", |o, _| format!("{}/{}", int(o, "status.readyReplicas"), int(o, "spec.replicas")).into()),
        col("Up-to-date", "string", |o, _| int(o, "status.updatedReplicas").into()),
        col("Available", "string", |o, _| int(o, "status.availableReplicas").into()),
        AGE, CONTAINERS, IMAGES, SELECTOR,
    ]),
    ("apps", "statefulsets", &[
        NAME,
        col("Ready", "string", |o, _| format!("{}/{}", int(o, "status.readyReplicas"), int(o, "spec.replicas")).into()),
        AGE, CONTAINERS, IMAGES,
    ]),
    ("apps", "controllerrevisions", &[
        NAME,
        col("Controller", "string", |o, _| revision_owner(o).into()),
        col("Revision", "string", |o, _| int(o, "revision").into()),
        AGE,
    ]),
    ("batch", "jobs", &[
        NAME,
        col("Status", "string", |o, _| workloads::job_status(o).into()),
        col("Completions", "string", |o, _| workloads::job_completions(o).into()),
        col("Duration", "string", |o, now| workloads::job_duration(o, now).into()),
        AGE, CONTAINERS, IMAGES, SELECTOR,
    ]),
    ("batch", "cronjobs", &[
        NAME,
        col("Schedule", "string", |o, _| text(o, "spec.schedule").into()),
        col("Timezone", "string", |o, _| or(text(o, "spec.timeZone"), "<none>").into()),
        col("Suspend", "boolean", |o, _| yes_no(at(o, "spec.suspend")).into()),
        col("Active", "integer", |o, _| list(o, "status.active").len().into()),
        col("Last Schedule", "string", |o, now| match text(o, "status.lastScheduleTime") {
            "" => "<none>".into(),
            time => age_of(time, now).into(),
        }),
        AGE,
        wide("Containers", |o, _| containers(at(o, "spec.jobTemplate.spec.template.spec"), "name").into()),
        wide("Images", |o, _| containers(at(o, "spec.jobTemplate.spec.template.spec"), "image").into()),
        wide("Selector", |o, _| selector(at(o, "spec.jobTemplate.spec.selector")).into()),
    ]),
    ("", "services", &[
        NAME,
        col("Type", "string", |o, _| text(o, "spec.type").into()),
        col("Cluster-IP", "string", |o, _| or(text(o, "spec.clusterIP"), "<none>").into()),
        col("External-IP", "string", |o, _| service_external_ip(o).into()),
        col("Port(s)", "string", |o, _| service_ports(o).into()),
        AGE,
        wide("Selector", |o, _| labels(at(o, "spec.selector")).into()),
    ]),
    ("networking.k8s.io", "ingresses", &[
        NAME,
        col("Class", "string", |o, _| or(text(o, "spec.ingressClassName"), "<none>").into()),
        col("Hosts", "string", |o, _| ingress_hosts(o).into()),
        col("Address", "string", |o, _| load_balancer(o).into()),
        col("Ports", "string", |o, _| if list(o, "spec.tls").is_empty() { "80" } else { "80, 443" }.into()),
        AGE,
    ]),
    ("networking.k8s.io", "ingressclasses", &[
        named(|o, _| name_or_default(o, "ingressclass.kubernetes.io/is-default-class").into()),
        col("Controller", "string", |o, _| text(o, "spec.controller").into()),
        col("Parameters", "string", |o, _| ingress_parameters(o).into()),
        AGE,
    ]),
    ("networking.k8s.io", "networkpolicies", &[
        NAME, col("Pod-Selector", "string", |o, _| selector(at(o, "spec.podSelector")).into()), AGE,
    ]),
    ("networking.k8s.io", "servicecidrs", &[NAME, col("CIDRs", "string", |o, _| joined(o, "spec.cidrs", "").into()), AGE]),
    ("networking.k8s.io", "ipaddresses", &[NAME, col("ParentRef", "string", |o, _| parent_ref(o).into()), AGE]),
    ("", "endpoints", &[NAME, col("Endpoints", "string", |o, _| endpoints(o).into()), AGE]),
    ("discovery.k8s.io", "endpointslices", &[
        NAME,
        col("AddressType", "string", |o, _| text(o, "addressType").into()),
        col("Ports", "string", |o, _| slice_ports(o).into()),
        col("Endpoints", "string", |o, _| slice_endpoints(o).into()),
        AGE,
    ]),
    ("", "nodes", &[
        NAME,
        col("Status", "string", |o, _| node_status(o).into()),
        col("Roles", "string", |o, _| node_roles(o).into()),
        AGE,
        col("Version", "string", |o, _| text(o, "status.nodeInfo.kubeletVersion").into()),
        wide("Internal-IP", |o, _| node_address(o, "InternalIP").into()),
        wide("External-IP", |o, _| node_address(o, "ExternalIP").into()),
        wide("OS-Image", |o, _| or(text(o, "status.nodeInfo.osImage"), "<unknown>").into()),
        wide("Kernel-Version", |o, _| or(text(o, "status.nodeInfo.kernelVersion"), "<unknown>").into()),
        wide("Container-Runtime", |o, _| or(text(o, "status.nodeInfo.containerRuntimeVersion"), "<unknown>").into()),
    ]),
    ("", "events", EVENTS),
    ("events.k8s.io", "events", NEW_EVENTS),
    ("", "namespaces", &[NAME, col("Status", "string", |o, _| text(o, "status.phase").into()), AGE]),
    ("", "secrets", &[
        NAME,
        col("Type", "string", |o, _| text(o, "type").into()),
        col("Data", "string", |o, _| at(o, "data").as_object().map_or(0, serde_json::Map::len).into()),
        AGE,
    ]),
    ("", "configmaps", &[
        NAME,
        col("Data", "string", |o, _| {
            let len = |path: &str| at(o, path).as_object().map_or(0, serde_json::Map::len);
            (len("data") + len("binaryData")).into()
        }),
        AGE,
    ]),
    ("", "serviceaccounts", NAME_AGE),
    ("", "resourcequotas", &[
        NAME,
        col("Request", "string", |o, _| quota(o, false).into()),
        col("Limit", "string", |o, _| quota(o, true).into()),
        AGE,
    ]),
    ("", "persistentvolumes", &[
        NAME,
        col("Capacity", "string", |o, _| text(o, "spec.capacity.storage").into()),
        col("Access Modes", "string", |o, _| access_modes(list(o, "spec.accessModes")).into()),
        col("Reclaim Policy", "string", |o, _| text(o, "spec.persistentVolumeReclaimPolicy").into()),
        col("Status", "string", |o, _| claim_phase(o).into()),
        col("Claim", "string", |o, _| match at(o, "spec.claimRef") {
            Value::Null => "".into(),
            claim => format!("{}/{}", text(claim, "namespace"), text(claim, "name")).into(),
        }),
        col("StorageClass", "string", |o, _| text(o, "spec.storageClassName").into()),
        col("VolumeAttributesClass", "string", |o, _| or(text(o, "spec.volumeAttributesClassName"), "<unset>").into()),
        col("Reason", "string", |o, _| text(o, "status.reason").into()),
        AGE,
        wide("VolumeMode", |o, _| or(text(o, "spec.volumeMode"), "<unset>").into()),
    ]),
    ("", "persistentvolumeclaims", &[
        NAME,
        col("Status", "string", |o, _| claim_phase(o).into()),
        col("Volume", "string", |o, _| text(o, "spec.volumeName").into()),
        col("Capacity", "string", |o, _| if text(o, "spec.volumeName").is_empty() { "" } else { text(o, "status.capacity.storage") }.into()),
        col("Access Modes", "string", |o, _| {
            let bound = !text(o, "spec.volumeName").is_empty();
            access_modes(if bound { list(o, "status.accessModes") } else { &[] }).into()
        }),
        col("StorageClass", "string", |o, _| text(o, "spec.storageClassName").into()),
        col("VolumeAttributesClass", "string", |o, _| or(text(o, "spec.volumeAttributesClassName"), "<unset>").into()),
        AGE,
        wide("VolumeMode", |o, _| or(text(o, "spec.volumeMode"), "<unset>").into()),
    ]),
    ("autoscaling", "horizontalpodautoscalers", &[
        NAME,
        col("Reference", "string", |o, _| format!("{}/{}", text(o, "spec.scaleTargetRef.kind"), text(o, "spec.scaleTargetRef.name")).into()),
        col("Targets", "string", |o, _| workloads::autoscaler_targets(o).into()),
        col("MinPods", "string", |o, _| at(o, "spec.minReplicas").as_i64().map_or("<unset>".to_owned(), |m| m.to_string()).into()),
        col("MaxPods", "string", |o, _| int(o, "spec.maxReplicas").into()),
        col("Replicas", "string", |o, _| int(o, "status.currentReplicas").into()),
        AGE,
    ]),
    ("rbac.authorization.k8s.io", "rolebindings", BINDINGS),
    ("rbac.authorization.k8s.io", "clusterrolebindings", BINDINGS),
    ("certificates.k8s.io", "certificatesigningrequests", &[
        NAME, AGE,
        col("SignerName", "string", |o, _| or(text(o, "spec.signerName"), "<none>").into()),
        col("Requestor", "string", |o, _| text(o, "spec.username").into()),
        col("RequestedDuration", "string", |o, _| requested_duration(o).into()),
        col("Condition", "string", |o, _| csr_condition(o).into()),
    ]),
    ("coordination.k8s.io", "leases", &[NAME, col("Holder", "string", |o, _| text(o, "spec.holderIdentity").into()), AGE]),
    ("storage.k8s.io", "storageclasses", &[
        named(|o, _| name_or_default(o, "storageclass.kubernetes.io/is-default-class").into()),
        col("Provisioner", "string", |o, _| text(o, "provisioner").into()),
        col("ReclaimPolicy", "string", |o, _| or(text(o, "reclaimPolicy"), "Delete").into()),
        col("VolumeBindingMode", "string", |o, _| or(text(o, "volumeBindingMode"), "Immediate").into()),
        col("AllowVolumeExpansion", "string", |o, _| flag(o, "allowVolumeExpansion", false)),
        AGE,
    ]),
    ("storage.k8s.io", "volumeattributesclasses", &[NAME, col("DriverName", "string", |o, _| text(o, "driverName").into()), AGE]),
    ("storage.k8s.io", "volumeattachments", &[
        NAME,
        Definition { format: "name", ..col("Attacher", "string", |o, _| text(o, "spec.attacher").into()) },
        col("PV", "string", |o, _| text(o, "spec.source.persistentVolumeName").into()),
        col("Node", "string", |o, _| text(o, "spec.nodeName").into()),
        col("Attached", "boolean", |o, _| flag(o, "status.attached", false)),
        AGE,
    ]),
    ("storage.k8s.io", "csinodes", &[NAME, col("Drivers", "integer", |o, _| list(o, "spec.drivers").len().into()), AGE]),
    ("storage.k8s.io", "csidrivers", &[
        NAME,
        col("AttachRequired", "boolean", |o, _| flag(o, "spec.attachRequired", true)),
        col("PodInfoOnMount", "boolean", |o, _| flag(o, "spec.podInfoOnMount", false)),
        col("StorageCapacity", "boolean", |o, _| flag(o, "spec.storageCapacity", false)),
        col("TokenRequests", "string", |o, _| {
            let audiences: Vec<&str> = list(o, "spec.tokenRequests").iter().map(|t| text(t, "audience")).collect();
            or(&audiences.join(","), "<unset>").into()
        }),
        col("RequiresRepublish", "boolean", |o, _| flag(o, "spec.requiresRepublish", false)),
        col("Modes", "string", |o, _| joined(o, "spec.volumeLifecycleModes", "<none>").into()),
        AGE,
    ]),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", WEBHOOKS),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations", WEBHOOKS),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies", &[
        NAME,
        col("Validations", "integer", |o, _| list(o, "spec.validations").len().into()),
        col("ParamKind", "string", |o, _| param_kind(o).into()),
        AGE,
    ]),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicies", &[
        NAME,
        col("Mutations", "integer", |o, _| list(o, "spec.mutations").len().into()),
        col("ParamKind", "string", |o, _| param_kind(o).into()),
        AGE,
    ]),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings", POLICY_BINDINGS),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings", POLICY_BINDINGS),
    ("scheduling.k8s.io", "priorityclasses", &[
        NAME,
        col("Value", "integer", |o, _| int(o, "value").into()),
        col("Global-Default", "boolean", |o, _| flag(o, "globalDefault", false)),
        AGE,
        wide("PreemptionPolicy", |o, _| text(o, "preemptionPolicy").into()),
    ]),
    ("node.k8s.io", "runtimeclasses", &[NAME, col("Handler", "string", |o, _| text(o, "handler").into()), AGE]),
    ("flowcontrol.apiserver.k8s.io", "flowschemas", &[
        NAME,
        col("PriorityLevel", "string", |o, _| text(o, "spec.priorityLevelConfiguration.name").into()),
        col("MatchingPrecedence", "string", |o, _| int(o, "spec.matchingPrecedence").into()),
        col("DistinguisherMethod", "string", |o, _| or(text(o, "spec.distinguisherMethod.type"), "<none>").into()),
        AGE,
        col("MissingPL", "string", |o, _| condition(o, "Dangling").map_or("?", |c| text(c, "status")).into()),
    ]),
    ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations", &[
        NAME,
        col("Type", "string", |o, _| text(o, "spec.type").into()),
        col("NominalConcurrencyShares", "string", |o, _| limited(o, "nominalConcurrencyShares")),
        col("Queues", "string", |o, _| limited(o, "limitResponse.queuing.queues")),
        col("HandSize", "string", |o, _| limited(o, "limitResponse.queuing.handSize")),
        col("QueueLengthLimit", "string", |o, _| limited(o, "limitResponse.queuing.queueLengthLimit")),
        AGE,
    ]),
    ("resource.k8s.io", "deviceclasses", NAME_AGE),
    ("resource.k8s.io", "resourceclaims", &[NAME, col("State", "string", |o, _| claim_state(o).into()), AGE]),
    ("resource.k8s.io", "resourceclaimtemplates", NAME_AGE),
    ("resource.k8s.io", "resourceslices", &[
        NAME,
        col("Node", "string", |o, _| text(o, "spec.nodeName").into()),
        col("Driver", "string", |o, _| text(o, "spec.driver").into()),
        col("Pool", "string", |o, _| text(o, "spec.pool.name").into()),
        AGE,
    ]),
    ("apiregistration.k8s.io", "apiservices", &[
        NAME,
        col("Service", "string", |o, _| api_service(o).into()),
        col("Available", "string", |o, _| api_service_available(o).into()),
        AGE,
    ]),
];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_column_has_a_cell_for_an_empty_object() {
        for (group, resource, _) in TABLES {
            let printer = find(group, resource);
            let cells = printer.cells(&json!({"metadata": {"name": "x"}}), Timestamp::UNIX_EPOCH);
            assert_eq!(cells.len(), printer.columns().len(), "{group}/{resource}");
        }
    }
}
