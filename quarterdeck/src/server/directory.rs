//! The servers of the cluster and where each is reached, kept in the cluster itself.
//!
//! A ConfigMap has one entry a server; every server writes its own and no other. Tokens, kubeconfigs, agents and the
//! commands of this machine learn from it whom else to ask. The `kubernetes` service does not serve for that: it has
//! neither the join ports nor loopback addresses, and forgets a server that is down for a minute.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use kube::api::{Api, ObjectMeta, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::layout::{Addresses, Layout};
use crate::failure::Result;
use crate::ops;
use crate::pki::files::write_private;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "quarterdeck-servers";
const RBAC_GROUP: &str = "rbac.authorization.k8s.io";
/// How often a server looks for others; a token made in between lacks the newest server, and still works.
const INTERVAL: Duration = Duration::from_secs(5);

/// Server name to its addresses.
pub type Servers = BTreeMap<String, Addresses>;

/// Writes this server's entry.
pub async fn announce(client: &Client, name: &str, addresses: &Addresses) -> Result<()> {
    let map = ConfigMap {
        metadata: ObjectMeta { name: Some(NAME.to_owned()), ..Default::default() },
        data: Some(BTreeMap::from([(name.to_owned(), serde_json::to_string(addresses)?)])),
        ..Default::default()
    };
    // One field manager a server: applying leaves the others' entries alone.
    let params = PatchParams::apply(&format!("quarterdeck-{name}")).force();
    api(client).patch(NAME, &params, &Patch::Apply(&map)).await?;
    Ok(())
}

/// Removes the entry of a server that has left.
pub async fn withdraw(client: &Client, name: &str) -> Result<()> {
    let gone = json!({ "data": { name: null } });
    api(client).patch(NAME, &PatchParams::default(), &Patch::Merge(&gone)).await?;
    Ok(())
}

/// Removes the entries of servers that are no members, such as those from before a restore.
pub async fn prune(client: &Client, members: &[String]) -> Result<()> {
    for name in list(client).await?.keys().filter(|name| !members.contains(name)) {
        withdraw(client, name).await?;
    }
    Ok(())
}

/// All entries; none where no server has announced itself yet. An entry that does not parse is passed over.
pub async fn list(client: &Client) -> Result<Servers> {
    let entries = api(client).get_opt(NAME).await?.and_then(|map| map.data).unwrap_or_default();
    let parse = |(name, text): (String, String)| serde_json::from_str(&text).ok().map(|at| (name, at));
    Ok(entries.into_iter().filter_map(parse).collect())
}

/// Lets nodes read the entries.
pub async fn open_to_nodes(client: &Client) -> Result<()> {
    let metadata = || ObjectMeta {
        name: Some(NAME.to_owned()),
        namespace: Some(NAMESPACE.to_owned()),
        ..Default::default()
    };
    let role = Role {
        metadata: metadata(),
        rules: Some(vec![PolicyRule {
            api_groups: Some(vec![String::new()]),
            resources: Some(vec!["configmaps".to_owned()]),
            resource_names: Some(vec![NAME.to_owned()]),
            verbs: vec!["get".to_owned()],
            ..Default::default()
        }]),
    };
    let binding = RoleBinding {
        metadata: metadata(),
        role_ref: RoleRef {
            api_group: Some(RBAC_GROUP.to_owned()),
            kind: "Role".to_owned(),
            name: NAME.to_owned(),
        },
        subjects: Some(vec![Subject {
            api_group: Some(RBAC_GROUP.to_owned()),
            kind: "Group".to_owned(),
            name: "system:nodes".to_owned(),
            namespace: None,
        }]),
    };
    let params = PatchParams::apply("quarterdeck").force();
    let roles: Api<Role> = Api::namespaced(client.clone(), NAMESPACE);
    roles.patch(&role.name_any(), &params, &Patch::Apply(&role)).await?;
    let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), NAMESPACE);
    bindings.patch(&binding.name_any(), &params, &Patch::Apply(&binding)).await?;
    Ok(())
}

/// Keeps this server's memory of the others current, for commands that run while its API is down.
pub async fn follow(layout: Layout, shutdown: CancellationToken) {
    loop {
        if let Err(failure) = remember(&layout).await {
            tracing::debug!(%failure, "the list of servers could not be read");
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn remember(layout: &Layout) -> Result<()> {
    let client = ops::client_from(&layout.admin_kubeconfig()).await?;
    let servers = list(&client).await?;
    let Some(mut state) = layout.load()? else { return Ok(()) };
    // Another server that started while this one's member had no name yet took it for a stranger.
    if !servers.contains_key(&state.name) {
        return announce(&client, &state.name, &state.reached_at).await;
    }
    if state.servers != servers {
        state.servers = servers;
        layout.save(&state)?;
        let token = ops::token::server_token(layout, &state)?;
        write_private(&layout.token("server"), token.to_string().as_bytes())?;
    }
    Ok(())
}

fn api(client: &Client) -> Api<ConfigMap> {
    Api::namespaced(client.clone(), NAMESPACE)
}
