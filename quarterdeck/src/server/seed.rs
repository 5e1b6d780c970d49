//! What every cluster of ours needs beyond upstream's start-up objects: rights for joining agents, the list of servers,
//! and the tokens. All of it idempotent; every server does it at every start.

use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, RoleRef, Subject};
use kube::Client;
use kube::api::{Api, ObjectMeta, Patch, PatchParams};
use proto::etcdserverpb::MemberListRequest;
use raft_store::Member;

use super::directory;
use super::layout::{Layout, State};
use crate::failure::Result;
use crate::ops;
use crate::pki::files::write_private;

/// Binding, role, group: what a bootstrap token may do, and what a node's certificate may renew.
const BINDINGS: &[(&str, &str, &str)] = &[
    ("quarterdeck:agent-bootstrap", "system:node-bootstrapper", ops::token::BOOTSTRAP_GROUP),
    (
        "quarterdeck:agent-autoapprove-bootstrap",
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        ops::token::BOOTSTRAP_GROUP,
    ),
    (
        "quarterdeck:agent-autoapprove-rotation",
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        "system:nodes",
    ),
    ("quarterdeck:node-network", NODE_NETWORK_ROLE, "system:nodes"),
];
const RBAC_GROUP: &str = "rbac.authorization.k8s.io";
/// What a node's proxy, DNS and policies read: group, resources. Upstream gives the same to kube-proxy, CoreDNS and the
/// network plugin, each with an account of its own; here they are the agent.
const NODE_NETWORK_ROLE: &str = "quarterdeck:node-network";
const NODE_NETWORK_READS: &[(&str, &[&str])] = &[
    ("", &["services", "endpoints", "nodes", "namespaces", "pods"]),
    ("discovery.k8s.io", &["endpointslices"]),
    ("networking.k8s.io", &["networkpolicies"]),
];
/// Without a majority of the servers nothing goes on; said this often while waiting for it.
const REMINDER_INTERVAL: Duration = Duration::from_secs(10);
const FIRST_TOKEN_LIFE: SignedDuration = SignedDuration::from_hours(24);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Waits for this server's API, then plants what is missing and writes the token files.
pub async fn plant(layout: &Layout, state: &State, member: &Member) -> Result<()> {
    let client = ops::client_from(&layout.admin_kubeconfig()).await?;
    let names = until_known(&client, member, &state.name).await?;
    node_network_role(&client).await?;
    for (name, role, group) in BINDINGS {
        bind(&client, name, role, group).await?;
    }
    directory::open_to_nodes(&client).await?;
    directory::announce(&client, &state.name, &state.reached_at).await?;
    directory::prune(&client, &names).await?;
    // The founder leaves a token for the first agents; `quarterdeck token create` makes more.
    if state.initial_cluster_state == "new" && !layout.token("agent").exists() {
        let token = ops::token::create_agent_token(&client, layout, state, Some(FIRST_TOKEN_LIFE)).await?;
        write_private(&layout.token("agent"), token.to_string().as_bytes())?;
    }
    write_private(&layout.token("server"), ops::token::server_token(layout, state)?.to_string().as_bytes())
}

/// Waits until the API is ready and this member has told the others its name; returns the names of all.
async fn until_known(client: &Client, member: &Member, name: &str) -> Result<Vec<String>> {
    until_ready(client).await;
    loop {
        let members = member.member_list(MemberListRequest { linearizable: true }).await?.members;
        let names: Vec<String> = members.into_iter().map(|member| member.name).collect();
        if names.iter().any(|known| known == name) {
            return Ok(names);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

async fn until_ready(client: &Client) {
    let mut reminder = tokio::time::interval(REMINDER_INTERVAL);
    reminder.tick().await;
    while !ops::is_ready(client).await {
        tokio::select! {
            () = tokio::time::sleep(POLL_INTERVAL) => {}
            _ = reminder.tick() => tracing::warn!("the API is not ready yet; is a majority of the servers running?"),
        }
    }
}

async fn node_network_role(client: &Client) -> Result<()> {
    let rule = |(group, resources): &(&str, &[&str])| PolicyRule {
        api_groups: Some(vec![(*group).to_owned()]),
        resources: Some(resources.iter().map(|name| (*name).to_owned()).collect()),
        verbs: ["get", "list", "watch"].map(str::to_owned).to_vec(),
        ..Default::default()
    };
    let role = ClusterRole {
        metadata: ObjectMeta { name: Some(NODE_NETWORK_ROLE.to_owned()), ..Default::default() },
        rules: Some(NODE_NETWORK_READS.iter().map(rule).collect()),
        ..Default::default()
    };
    let api: Api<ClusterRole> = Api::all(client.clone());
    api.patch(NODE_NETWORK_ROLE, &PatchParams::apply("quarterdeck").force(), &Patch::Apply(&role)).await?;
    Ok(())
}

async fn bind(client: &Client, name: &str, role: &str, group: &str) -> Result<()> {
    let binding = ClusterRoleBinding {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..Default::default() },
        role_ref: RoleRef {
            api_group: Some(RBAC_GROUP.to_owned()),
            kind: "ClusterRole".to_owned(),
            name: role.to_owned(),
        },
        subjects: Some(vec![Subject {
            api_group: Some(RBAC_GROUP.to_owned()),
            kind: "Group".to_owned(),
            name: group.to_owned(),
            namespace: None,
        }]),
    };
    let api: Api<ClusterRoleBinding> = Api::all(client.clone());
    let params = PatchParams::apply("quarterdeck").force();
    api.patch(name, &params, &Patch::Apply(&binding)).await?;
    Ok(())
}
