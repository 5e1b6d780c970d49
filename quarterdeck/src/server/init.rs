//! How an empty data directory becomes a server's: by starting a cluster, or by joining one.

use std::path::Path;
use std::time::SystemTime;

use rcgen::KeyPair;

use super::join::{JoinRequest, unix_secs};
use super::join_client;
use super::layout::{Layout, State};
use super::options::{ServerOptions, nth_address};
use crate::failure::{At, Failure, Result};
use crate::kubeconfig::{self, Endpoint, Identity};
use crate::pki::authority::{self, NAMES};
use crate::pki::files::{read_text, write_private, write_public};
use crate::token::{JoinToken, Role};

const CLUSTER_CIDR: &str = "10.244.0.0/16";
const SERVICE_CIDR: &str = "10.96.0.0/16";
const CLUSTER_DOMAIN: &str = "cluster.local";

/// Kubeconfigs a server keeps: file name, certificate, user.
const KUBECONFIGS: &[(&str, &str)] = &[
    ("admin", "kubernetes-admin"),
    ("controller-manager", "system:kube-controller-manager"),
    ("scheduler", "system:kube-scheduler"),
];

/// Makes a new cluster's authorities, keys and secrets. The caller saves the state.
pub fn create(layout: &Layout, options: &ServerOptions) -> Result<State> {
    let chosen = |given: &Option<String>, default: &str| given.clone().unwrap_or_else(|| default.to_owned());
    let state = State {
        cluster_cidr: chosen(&options.cluster_cidr, CLUSTER_CIDR),
        service_cidr: chosen(&options.service_cidr, SERVICE_CIDR),
        cluster_domain: chosen(&options.cluster_domain, CLUSTER_DOMAIN),
        initial_cluster: format!("{}={}", options.name, options.url(options.store_peer_port)?),
        initial_cluster_state: "new".to_owned(),
        ..State::new(&options.name)
    };
    // What is wrong with these is said before anything is made.
    for range in state.cluster_cidr.split(',').chain(state.service_cidr.split(',')) {
        nth_address(range, 1)?;
    }
    options.identity(&state)?;
    fill_pki(layout, |dir| {
        for (name, common_name) in NAMES {
            authority::create(dir, name, common_name)?;
        }
        // P-256 in PKCS#8: service-account tokens are then ES256, which every client library verifies.
        let key = KeyPair::generate()?;
        write_private(&dir.join("sa.key"), key.serialize_pem().as_bytes())?;
        write_public(&dir.join("sa.pub"), key.public_key_pem().as_bytes())
    })?;
    Ok(state)
}

/// Asks a server of the token for membership, and takes over the cluster's authorities. The caller saves the state.
pub async fn join(layout: &Layout, options: &ServerOptions, token: &str) -> Result<State> {
    let token: JoinToken = token.parse()?;
    if token.role != Role::Server {
        return Err(Failure::new("this is an agent's token")
            .mend("get a server's with `quarterdeck token create --role server`"));
    }
    let ca = join_client::fetch_ca(&token).await?;
    let cluster = join_client::fetch_cluster(&token, &ca).await?;
    options.agree_with(&cluster.cluster_cidr, &cluster.service_cidr, &cluster.cluster_domain)?;
    let request = JoinRequest {
        name: options.name.clone(),
        peer_url: options.url(options.store_peer_port)?,
        client_url: options.url(options.store_client_port)?,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        unix_secs: unix_secs(SystemTime::now()),
    };
    let answer = join_client::join(&token, &ca, &request).await?;
    fill_pki(layout, |dir| {
        for (name, pem) in &answer.pki {
            if Path::new(name).components().count() != 1 {
                return Err(Failure::new(format!("the server sent a file named {name:?}")));
            }
            write_private(&dir.join(name), pem.as_bytes())?;
        }
        Ok(())
    })?;
    Ok(answer.state)
}

/// Fills a folder beside and renames it into place. One left over from an attempt that failed is replaced: without a
/// state file nothing has used it.
fn fill_pki(layout: &Layout, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let pki = layout.pki();
    let beside = pki.with_extension("new");
    for leftover in [&beside, &pki] {
        if leftover.exists() {
            std::fs::remove_dir_all(leftover).at("remove the leftover", leftover)?;
        }
    }
    std::fs::create_dir_all(&beside).at("create", &beside)?;
    fill(&beside)?;
    std::fs::rename(&beside, &pki).at("rename into place", &pki)
}

/// Writes the kubeconfigs of this server's own roles and of its administrator, all to its own API server, where they
/// are not so already. Says whether any was written.
pub fn write_kubeconfigs(layout: &Layout, state: &State) -> Result<bool> {
    let mut written = false;
    let ca = read_text(&layout.pki_file("ca.crt"))?;
    for (file, user) in KUBECONFIGS {
        let cert = read_text(&layout.pki_file(&format!("{file}.crt")))?;
        let key = read_text(&layout.pki_file(&format!("{file}.key")))?;
        let endpoint = Endpoint { context: "quarterdeck".into(), url: state.reached_at.api_url.clone() };
        let identity = Identity::Certificate { cert: &cert, key: &key };
        let config = kubeconfig::render(user, &identity, &ca, &[endpoint]);
        written |= kubeconfig::write_if_new(&layout.kubeconfig(file), &config)?;
    }
    Ok(written)
}
