//! `quarterdeck kubeconfig`: an administrator's file with a context for every server.

use std::path::PathBuf;

use clap::Args;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::{Api, ListParams};

use super::Here;
use crate::failure::Result;
use crate::kubeconfig::{Endpoint, Identity, render, write};
use crate::pki::files::read_text;

/// Prints a kubeconfig for administrators, with a context for each server of the cluster.
#[derive(Args, Clone, Debug)]
pub struct KubeconfigOptions {
    #[command(flatten)]
    here: Here,
    /// Write it to this file instead of standard output.
    #[arg(long, short)]
    output: Option<PathBuf>,
}

pub async fn run(options: KubeconfigOptions) -> Result<()> {
    let (layout, state) = options.here.load()?;
    let mut urls = vec![state.reached_at.api_url.clone()];
    if let Ok(client) = super::client_from(&layout.admin_kubeconfig()).await
        && let Ok(found) = api_servers(&client).await
    {
        urls.extend(found.into_iter().filter(|url| *url != state.reached_at.api_url));
    }
    let endpoints: Vec<Endpoint> = urls
        .into_iter()
        .enumerate()
        .map(|(index, url)| Endpoint {
            context: if index == 0 { "quarterdeck".into() } else { format!("quarterdeck-{}", index + 1) },
            url,
        })
        .collect();
    let pki = |name: &str| read_text(&layout.pki_file(name));
    let (ca, cert, key) = (pki("ca.crt")?, pki("admin.crt")?, pki("admin.key")?);
    let config =
        render("kubernetes-admin", &Identity::Certificate { cert: &cert, key: &key }, &ca, &endpoints);
    match options.output {
        Some(path) => write(&path, &config),
        None => {
            print!("{}", serde_yaml_ng::to_string(&config)?);
            Ok(())
        }
    }
}

/// `https://address:port` of every live API server, as the `kubernetes` service has them.
pub async fn api_servers(client: &Client) -> Result<Vec<String>> {
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "default");
    let list = slices.list(&ListParams::default().labels("kubernetes.io/service-name=kubernetes")).await?;
    let mut urls = Vec::new();
    for slice in list.items {
        let port = slice.ports.iter().flatten().find_map(|port| port.port).unwrap_or(6443);
        for address in slice.endpoints.iter().flatten().flat_map(|endpoint| &endpoint.addresses) {
            urls.push(match address.contains(':') {
                true => format!("https://[{address}]:{port}"),
                false => format!("https://{address}:{port}"),
            });
        }
    }
    urls.sort();
    urls.dedup();
    Ok(urls)
}
