//! A container's environment: service variables, `envFrom`, `env` in order, and `$(NAME)` expansion.
//! Pure: ConfigMaps, Secrets, files and services are read by the caller beforehand.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvVar, EnvVarSource, Pod, PodStatus, Secret, Service,
};

use super::env_file::{self, EnvFiles};
use super::fields::{self, Allocatable, FieldError};
use super::pod::spec;

/// The environment cannot be built. The texts are upstream's; the container waits with
/// `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EnvError {
    /// A ConfigMap does not exist.
    #[error("configmap \"{0}\" not found")]
    NoConfigMap(String),
    /// A Secret does not exist.
    #[error("secret \"{0}\" not found")]
    NoSecret(String),
    /// A ConfigMap lacks a key.
    #[error("couldn't find key {key} in ConfigMap {namespace}/{name}")]
    NoConfigMapKey {
        /// Whose.
        namespace: String,
        /// Its name.
        name: String,
        /// The missing key.
        key: String,
    },
    /// A Secret lacks a key.
    #[error("couldn't find key {key} in Secret {namespace}/{name}")]
    NoSecretKey {
        /// Whose.
        namespace: String,
        /// Its name.
        name: String,
        /// The missing key.
        key: String,
    },
    /// The pod has no such volume.
    #[error("cannot find the volume {0:?} referenced by FileKeyRef")]
    NoVolume(String),
    /// A file of variables is not there or not written as it must be.
    #[error("couldn't parse env file")]
    BadFile,
    /// A file lacks a variable.
    #[error("environment variable key {key:?} not found in file {file:?}")]
    NoFileKey {
        /// The missing variable.
        key: String,
        /// The file, on the machine.
        file: String,
    },
    /// A field cannot be given.
    #[error(transparent)]
    Field(#[from] FieldError),
}

/// Everything that an environment can be built from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The pod's newest status.
    pub status: PodStatus,
    /// ConfigMaps of the namespace that the container refers to, as far as they exist.
    pub config_maps: BTreeMap<String, Arc<ConfigMap>>,
    /// Secrets of the namespace that the container refers to, as far as they exist.
    pub secrets: BTreeMap<String, Arc<Secret>>,
    /// Files of its volumes that the container refers to.
    pub files: EnvFiles,
    /// Services whose variables the pod gets.
    pub services: Vec<Service>,
    /// The machine's allocatable resources.
    pub allocatable: Allocatable,
}

/// Names of ConfigMaps and Secrets a container's environment refers to.
pub fn references(container: &Container) -> (Vec<String>, Vec<String>) {
    let (mut maps, mut secrets) = (Vec::new(), Vec::new());
    for from in container.env_from.iter().flatten() {
        maps.extend(from.config_map_ref.iter().map(|r| r.name.clone()));
        secrets.extend(from.secret_ref.iter().map(|r| r.name.clone()));
    }
    for source in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
        maps.extend(source.config_map_key_ref.iter().map(|r| r.name.clone()));
        secrets.extend(source.secret_key_ref.iter().map(|r| r.name.clone()));
    }
    (maps, secrets)
}

/// The whole environment, sorted by name.
pub fn build(
    pod: &Pod,
    container: &Container,
    sources: &Sources,
) -> Result<BTreeMap<String, String>, EnvError> {
    let services = service_variables(pod, &sources.services);
    let mut result = BTreeMap::new();
    add_env_from(container, sources, &mut result)?;
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) if !value.is_empty() => {
                Some(expand(value, |name| result.get(name).or_else(|| services.get(name)).cloned()))
            }
            (_, Some(source)) => from_source(pod, container, variable, source, sources)?,
            _ => Some(String::new()),
        };
        if let Some(value) = value {
            result.insert(variable.name.clone(), value);
        }
    }
    for (name, value) in services {
        result.entry(name).or_insert(value);
    }
    Ok(result)
}

fn add_env_from(
    container: &Container,
    sources: &Sources,
    result: &mut BTreeMap<String, String>,
) -> Result<(), EnvError> {
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.clone().unwrap_or_default();
        if let Some(reference) = &from.config_map_ref {
            match sources.config_maps.get(&reference.name) {
                Some(map) => {
                    for (key, value) in map.data.iter().flatten() {
                        result.insert(format!("{prefix}{key}"), value.clone());
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(EnvError::NoConfigMap(reference.name.clone())),
            }
        }
        if let Some(reference) = &from.secret_ref {
            match sources.secrets.get(&reference.name) {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        let text = String::from_utf8_lossy(&value.0).into_owned();
                        result.insert(format!("{prefix}{key}"), text);
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(EnvError::NoSecret(reference.name.clone())),
            }
        }
    }
    Ok(())
}

/// `None` where an optional source is missing: the variable is left out.
fn from_source(
    pod: &Pod,
    container: &Container,
    variable: &EnvVar,
    source: &EnvVarSource,
    sources: &Sources,
) -> Result<Option<String>, EnvError> {
    let namespace = || spec::namespace(pod).to_owned();
    if let Some(field) = &source.field_ref {
        return Ok(Some(fields::pod_field(pod, &sources.status, field)?));
    }
    if let Some(resource) = &source.resource_field_ref {
        let text = fields::container_resource(pod, Some(container), resource, &sources.allocatable)?;
        return Ok(Some(text));
    }
    if let Some(reference) = &source.config_map_key_ref {
        let (name, key, optional) = (&reference.name, &reference.key, reference.optional == Some(true));
        let Some(map) = sources.config_maps.get(name) else {
            return if optional { Ok(None) } else { Err(EnvError::NoConfigMap(name.clone())) };
        };
        return match map.data.as_ref().and_then(|d| d.get(key)) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => {
                Err(EnvError::NoConfigMapKey { namespace: namespace(), name: name.clone(), key: key.clone() })
            }
        };
    }
    if let Some(reference) = &source.secret_key_ref {
        let (name, key, optional) = (&reference.name, &reference.key, reference.optional == Some(true));
        let Some(secret) = sources.secrets.get(name) else {
            return if optional { Ok(None) } else { Err(EnvError::NoSecret(name.clone())) };
        };
        return match secret.data.as_ref().and_then(|d| d.get(key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None if optional => Ok(None),
            None => {
                Err(EnvError::NoSecretKey { namespace: namespace(), name: name.clone(), key: key.clone() })
            }
        };
    }
    if let Some(reference) = &source.file_key_ref {
        return env_file::variable(&sources.files, reference);
    }
    tracing::debug!(variable = variable.name, "a variable without a known source stays empty");
    Ok(Some(String::new()))
}

/// Replaces `$(NAME)`; `$$` stands for one `$`, and an unknown name stays as it is written.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// The variables of every service the pod can see: those of its namespace (unless it opts out) and the API.
pub fn service_variables(pod: &Pod, services: &[Service]) -> BTreeMap<String, String> {
    let links = spec::spec(pod).enable_service_links.unwrap_or(true);
    let namespace = spec::namespace(pod);
    let mut result = BTreeMap::new();
    let own = |s: &&Service| s.metadata.namespace.as_deref() == Some(namespace);
    let api = |s: &&Service| {
        s.metadata.namespace.as_deref() == Some("default") && s.metadata.name.as_deref() == Some("kubernetes")
    };
    // The namespace's own services win over the API's of the same name.
    for service in services.iter().filter(api).chain(services.iter().filter(|s| links && own(s))) {
        add_service(service, &mut result);
    }
    result
}

fn add_service(service: &Service, result: &mut BTreeMap<String, String>) {
    let Some(spec) = &service.spec else { return };
    let host = spec.cluster_ip.clone().unwrap_or_default();
    let ports = spec.ports.as_deref().unwrap_or_default();
    let (Some(first), false) = (ports.first(), host.is_empty() || host == "None") else { return };
    let name = variable_name(service.metadata.name.as_deref().unwrap_or_default());
    result.insert(format!("{name}_SERVICE_HOST"), host.clone());
    result.insert(format!("{name}_SERVICE_PORT"), first.port.to_string());
    for port in ports {
        if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            result.insert(format!("{name}_SERVICE_PORT_{}", variable_name(port_name)), port.port.to_string());
        }
    }
    let bracketed = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    for (index, port) in ports.iter().enumerate() {
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
        let url = format!("{}://{bracketed}:{}", protocol.to_lowercase(), port.port);
        if index == 0 {
            result.insert(format!("{name}_PORT"), url.clone());
        }
        let prefix = format!("{name}_PORT_{}_{}", port.port, protocol.to_uppercase());
        result.insert(prefix.clone(), url);
        result.insert(format!("{prefix}_PROTO"), protocol.to_lowercase());
        result.insert(format!("{prefix}_PORT"), port.port.to_string());
        result.insert(format!("{prefix}_ADDR"), host.clone());
    }
}

fn variable_name(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn expansion_follows_upstreams_syntax() {
        let cases = [
            ("$(A)-$(B)", "1-2"),
            ("$$(A)", "$(A)"),
            ("$(NONE)", "$(NONE)"),
            ("a$", "a$"),
            ("$(A", "$(A"),
            ("$A", "$A"),
            ("$$$(A)", "$1"),
            ("", ""),
        ];
        let lookup = |name: &str| match name {
            "A" => Some("1".to_owned()),
            "B" => Some("2".to_owned()),
            _ => None,
        };
        for (text, expected) in cases {
            assert_eq!(expand(text, lookup), expected, "{text}");
        }
    }

    fn check(container: serde_json::Value, expected: Result<&[(&str, &str)], EnvError>) {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"},
            "spec": {"containers": [], "nodeName": "node"}}))
        .expect("a pod");
        let container: Container = serde_json::from_value(container).expect("a container");
        let sources = Sources {
            config_maps: [(
                "cm".to_owned(),
                Arc::new(serde_json::from_value(json!({"data": {"k": "v", "x": "y"}})).expect("a map")),
            )]
            .into(),
            secrets: [(
                "s".to_owned(),
                Arc::new(serde_json::from_value(json!({"data": {"p": "cHc="}})).expect("ok")),
            )]
            .into(),
            services: vec![
                serde_json::from_value(json!({"metadata": {"name": "my-db", "namespace": "n"},
                "spec": {"clusterIP": "10.1.2.3", "ports": [{"port": 5432, "name": "pg"}]}}))
                .expect("a service"),
            ],
            ..Sources::default()
        };
        let built = build(&pod, &container, &sources);
        let own =
            built.map(|env| env.into_iter().filter(|(k, _)| !k.starts_with("MY_DB")).collect::<Vec<_>>());
        let expected = expected
            .map(|list| list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Vec<_>>());
        assert_eq!(own, expected);
    }

    #[test]
    fn sources_in_order() {
        check(
            json!({"name": "c", "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}, {"secretRef": {"name": "s"}}],
                "env": [{"name": "A", "value": "$(P_k)/$(MY_DB_SERVICE_PORT)/$(LATER)"}, {"name": "LATER", "value": "1"},
                    {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                    {"name": "O", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "no", "optional": true}}}]}),
            Ok(&[
                ("A", "v/5432/$(LATER)"),
                ("LATER", "1"),
                ("N", "node"),
                ("P_k", "v"),
                ("P_x", "y"),
                ("p", "pw"),
            ]),
        );
        check(
            json!({"name": "c", "envFrom": [{"configMapRef": {"name": "z"}}]}),
            Err(EnvError::NoConfigMap("z".into())),
        );
        check(
            json!({"name": "c", "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "q"}}}]}),
            Err(EnvError::NoSecretKey { namespace: "n".into(), name: "s".into(), key: "q".into() }),
        );
    }

    #[test]
    fn service_variables_have_docker_link_names() {
        let services: Vec<Service> = vec![
            serde_json::from_value(json!({"metadata": {"name": "kubernetes", "namespace": "default"},
                "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 443, "name": "https"}]}}))
            .expect("a service"),
        ];
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"namespace": "n"}, "spec": {"containers": [],
            "enableServiceLinks": false}}))
            .expect("a pod");
        let text: Vec<String> =
            service_variables(&pod, &services).into_iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            text,
            [
                "KUBERNETES_PORT=tcp://10.96.0.1:443",
                "KUBERNETES_PORT_443_TCP=tcp://10.96.0.1:443",
                "KUBERNETES_PORT_443_TCP_ADDR=10.96.0.1",
                "KUBERNETES_PORT_443_TCP_PORT=443",
                "KUBERNETES_PORT_443_TCP_PROTO=tcp",
                "KUBERNETES_SERVICE_HOST=10.96.0.1",
                "KUBERNETES_SERVICE_PORT=443",
                "KUBERNETES_SERVICE_PORT_HTTPS=443",
            ]
        );
    }
}
