//! Claims around the write of a service: addresses first, then node ports; a failure gives back what was claimed.

use std::net::IpAddr;
use std::sync::Arc;

use machinery::status::{FieldError, StatusError};
use serde_json::{Value, json};

use super::addresses::{self, AddressError, belongs_to};
use super::pools::{PoolError, PortRange, ServiceNetworks};
use super::ports::{PortAllocator, PortSet};
use crate::contract::{Object, RequestContext};
use crate::kinds::json::{int, items, items_mut, set, text, texts};
use crate::kinds::service::{self, HEADLESS};
use crate::storage::Store;

/// The allocators of this server.
pub struct Allocators {
    configured: ServiceNetworks,
    families: Vec<&'static str>,
    pub(super) ports: PortAllocator,
}

impl Allocators {
    /// `networks` are those of `--service-cluster-ip-range`, the default family's first; the store holds the node
    /// ports that are taken.
    pub fn new(networks: ServiceNetworks, range: PortRange, store: Arc<dyn Store>) -> Self {
        let mut families: Vec<&'static str> = Vec::new();
        for network in &networks.networks {
            let family = if network.addr().is_ipv6() { "IPv6" } else { "IPv4" };
            if !families.contains(&family) {
                families.push(family);
            }
        }
        Allocators { configured: networks, families, ports: PortAllocator::new(range, store) }
    }

    /// The IP families of the cluster, the default first.
    pub fn families(&self) -> &[&'static str] {
        &self.families
    }

    /// The networks of the flags.
    pub fn configured(&self) -> &ServiceNetworks {
        &self.configured
    }

    /// Claims what the service needs and does not hold yet, and writes it into the object.
    pub async fn claim(
        &self,
        ctx: &RequestContext,
        new: &mut Object,
        old: Option<&Object>,
    ) -> Result<(), StatusError> {
        let held_addresses = old.map(service::addresses).unwrap_or_default();
        self.claim_addresses(ctx, new, &held_addresses).await?;
        let held_ports = old.map(service::node_ports).unwrap_or_default();
        let claimed = self.claim_ports(ctx, new, old, &held_ports).await;
        if claimed.is_err() && !ctx.dry_run {
            let fresh = service::addresses(new).into_iter().filter(|ip| !held_addresses.contains(ip));
            for address in fresh {
                addresses::release(ctx.cluster.as_ref(), &address).await;
            }
        }
        claimed
    }

    /// Gives back what the object holds and no stored version of it does.
    pub async fn release(&self, ctx: &RequestContext, object: &Object) {
        if ctx.dry_run {
            return;
        }
        let stored = match self.stored(ctx, object).await {
            Ok(stored) => stored,
            // Whether the service was written is not known: what it may hold is not given to others. The comparison
            // gives it back later, should nobody hold it.
            Err(error) => return tracing::debug!(%error, "what a service claimed is not given back yet"),
        };
        let kept = stored.as_deref().map(service::addresses).unwrap_or_default();
        for address in service::addresses(object).into_iter().filter(|address| !kept.contains(address)) {
            let holder = ctx.cluster.get(addresses::GROUP, addresses::RESOURCE, "", &address).await;
            if holder.is_none_or(|holder| belongs_to(&holder, object)) {
                addresses::release(ctx.cluster.as_ref(), &address).await;
            }
        }
        let held = stored.as_deref().map(service::node_ports).unwrap_or_default();
        self.ports.release(&without(service::node_ports(object), &held)).await;
    }

    /// Gives back what the object held before an update and holds no longer.
    pub async fn settle(&self, ctx: &RequestContext, new: &Object, old: &Object) {
        let kept = service::addresses(new);
        for address in service::addresses(old).into_iter().filter(|address| !kept.contains(address)) {
            addresses::release(ctx.cluster.as_ref(), &address).await;
        }
        self.ports.release(&without(service::node_ports(old), &service::node_ports(new))).await;
    }

    /// The stored service, unless this request deletes it.
    async fn stored(
        &self,
        ctx: &RequestContext,
        object: &Object,
    ) -> Result<Option<Arc<Object>>, StatusError> {
        let deletes = matches!(ctx.info.verb.as_str(), "delete" | "deletecollection")
            || !text(object, &["metadata", "deletionTimestamp"]).is_empty();
        if deletes {
            return Ok(None);
        }
        let (namespace, name) =
            (text(object, &["metadata", "namespace"]), text(object, &["metadata", "name"]));
        let stored = ctx.cluster.get_current("", "services", namespace, name).await?;
        Ok(stored.filter(|stored| text(stored, &["metadata", "uid"]) == text(object, &["metadata", "uid"])))
    }

    async fn claim_addresses(
        &self,
        ctx: &RequestContext,
        new: &mut Object,
        held: &[String],
    ) -> Result<(), StatusError> {
        let headless = texts(new, &["spec", "clusterIPs"]).next() == Some(HEADLESS);
        if text(new, &["spec", "type"]) == "ExternalName" || headless {
            return Ok(());
        }
        let networks = addresses::networks(ctx.cluster.as_ref(), &self.configured).await?;
        let families: Vec<String> = texts(new, &["spec", "ipFamilies"]).map(str::to_owned).collect();
        let mut ips: Vec<String> = texts(new, &["spec", "clusterIPs"]).map(str::to_owned).collect();
        ips.resize(families.len().max(ips.len()), String::new());
        let mut claimed: Vec<String> = Vec::new();
        for (ip, family) in ips.iter_mut().zip(&families) {
            if held.contains(ip) {
                continue;
            }
            match claim_one(ctx, &networks, new, ip, family).await {
                Ok(address) => *ip = address,
                Err(error) => {
                    for address in &claimed {
                        addresses::release(ctx.cluster.as_ref(), address).await;
                    }
                    return Err(address_error(new, ip, error));
                }
            }
            if !ctx.dry_run {
                claimed.push(ip.clone());
            }
        }
        if let Some(first) = ips.first().filter(|first| !first.is_empty()) {
            set(new, &["spec", "clusterIP"], first.clone());
            set(new, &["spec", "clusterIPs"], json!(ips));
        }
        Ok(())
    }

    async fn claim_ports(
        &self,
        ctx: &RequestContext,
        new: &mut Object,
        old: Option<&Object>,
        held: &[u16],
    ) -> Result<(), StatusError> {
        let wants = matches!(text(new, &["spec", "type"]), "NodePort" | "LoadBalancer");
        if !wants {
            return Ok(());
        }
        let made = |set: &mut PortSet| {
            let mut copy = new.clone();
            let mut claims = Claims { set, taken: Vec::new() };
            claims.service_ports(&mut copy, held)?;
            claims.health_check(&mut copy, old)?;
            Ok(copy)
        };
        *new = if ctx.dry_run { self.ports.preview(made).await? } else { self.ports.change(made).await? };
        Ok(())
    }
}

fn without(ports: Vec<u16>, kept: &[u16]) -> Vec<u16> {
    ports.into_iter().filter(|port| !kept.contains(port)).collect()
}

async fn claim_one(
    ctx: &RequestContext,
    networks: &ServiceNetworks,
    service: &Object,
    wanted: &str,
    family: &str,
) -> Result<String, AddressError> {
    let cluster = ctx.cluster.as_ref();
    if wanted.is_empty() {
        let address = match ctx.dry_run {
            true => addresses::example(networks, family)?,
            false => addresses::claim_any(cluster, networks, service, family).await?,
        };
        return Ok(address.to_string());
    }
    let address: IpAddr = wanted.parse().map_err(|_| PoolError::OutsideNetworks)?;
    if ctx.dry_run {
        networks.check(address)?;
        if cluster.get(addresses::GROUP, addresses::RESOURCE, "", wanted).await.is_some() {
            return Err(PoolError::AddressTaken.into());
        }
    } else {
        addresses::claim_exact(cluster, networks, service, address).await?;
    }
    Ok(wanted.to_owned())
}

fn address_error(service: &Object, wanted: &str, error: AddressError) -> StatusError {
    let name = text(service, &["metadata", "name"]);
    let quoted = machinery::gotext::quote(name);
    let detail = match (&error, wanted) {
        (AddressError::Pool(PoolError::Full), _) => {
            return StatusError::internal(format!(
                "failed to allocate a serviceIP for Service {quoted}: {error}"
            ));
        }
        (_, "") => format!("failed to allocate IP: {error}"),
        (_, ip) => format!("failed to allocate IP {ip}: {error}"),
    };
    let ips = Value::Array(items(service, &["spec", "clusterIPs"]).to_vec());
    StatusError::invalid("", "Service", name, vec![FieldError::invalid(&"spec.clusterIPs", ips, detail)])
}

/// The port claims of one request, on a copy of the set.
struct Claims<'a> {
    set: &'a mut PortSet,
    taken: Vec<u16>,
}

impl Claims<'_> {
    fn exact(&mut self, port: u16) -> Result<(), PoolError> {
        self.set.claim_exact(port)?;
        self.taken.push(port);
        Ok(())
    }

    fn any(&mut self) -> Result<u16, PoolError> {
        let port = self.set.claim_any(rand::random())?;
        self.taken.push(port);
        Ok(port)
    }

    fn service_ports(&mut self, service: &mut Object, held: &[u16]) -> Result<(), StatusError> {
        let allocate = service::needs_node_ports(service);
        let name = text(service, &["metadata", "name"]).to_owned();
        let asked: Vec<(i64, i64)> = items(service, &["spec", "ports"])
            .iter()
            .map(|port| {
                (int(port, &["port"]).unwrap_or_default(), int(port, &["nodePort"]).unwrap_or_default())
            })
            .collect();
        // One service port number may be served for two protocols: they share a node port.
        let mut by_port: Vec<(i64, u16)> = Vec::new();
        for (index, port) in items_mut(service, &["spec", "ports"]).iter_mut().enumerate() {
            let (number, wanted) = asked[index];
            if wanted == 0 && !allocate {
                continue;
            }
            let shared = by_port.iter().find(|(known, _)| *known == number).map(|(_, port)| *port);
            let requested = if wanted != 0 {
                wanted
            } else {
                asked.iter().find(|a| a.0 == number && a.1 != 0).map_or(0, |a| a.1)
            };
            let node_port = match (u16::try_from(requested).unwrap_or_default(), shared) {
                (0, Some(shared)) => shared,
                (0, None) => self.any().map_err(|error| {
                    StatusError::internal(format!("failed to allocate a nodePort: {error}"))
                })?,
                (wanted, _) if held.contains(&wanted) || self.taken.contains(&wanted) => wanted,
                (wanted, _) => {
                    self.exact(wanted).map_err(|error| port_error(&name, index, wanted, &error))?;
                    wanted
                }
            };
            by_port.push((number, node_port));
            set(port, &["nodePort"], node_port);
        }
        Ok(())
    }

    fn health_check(&mut self, service: &mut Object, old: Option<&Object>) -> Result<(), StatusError> {
        if !service::needs_health_check_port(service) || old.is_some_and(service::needs_health_check_port) {
            return Ok(());
        }
        let wanted = int(service, &["spec", "healthCheckNodePort"]).and_then(|port| u16::try_from(port).ok());
        match wanted.filter(|port| *port != 0) {
            Some(port) => self.exact(port).map_err(|error| {
                let text = format!("failed to allocate requested HealthCheck NodePort {port}: {error}");
                StatusError::internal(text)
            }),
            None => {
                let port = self.any().map_err(|error| {
                    StatusError::internal(format!("failed to allocate a HealthCheck NodePort 0: {error}"))
                })?;
                set(service, &["spec", "healthCheckNodePort"], port);
                Ok(())
            }
        }
    }
}

fn port_error(service: &str, index: usize, port: u16, error: &PoolError) -> StatusError {
    let path = format!("spec.ports[{index}].nodePort");
    StatusError::invalid("", "Service", service, vec![FieldError::invalid(&path, port, error.to_string())])
}
