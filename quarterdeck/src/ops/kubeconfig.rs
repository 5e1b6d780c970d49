//! `quarterdeck kubeconfig`: an administrator's file with a context for every server.

use std::path::PathBuf;

use clap::Args;

use super::Here;
use crate::failure::Result;
use crate::kubeconfig::{Endpoint, Identity, render, write};
use crate::pki::files::read_text;
use crate::server::layout::State;

/// Prints a kubeconfig for administrators, with a context for each server of the cluster.
///
/// The context `quarterdeck` is this server's; `kubectl --context quarterdeck-NAME` asks another.
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
    let pki = |name: &str| read_text(&layout.pki_file(name));
    let (ca, cert, key) = (pki("ca.crt")?, pki("admin.crt")?, pki("admin.key")?);
    let identity = Identity::Certificate { cert: &cert, key: &key };
    let config = render("kubernetes-admin", &identity, &ca, &endpoints(&state));
    match options.output {
        Some(path) => write(&path, &config),
        None => {
            print!("{}", serde_yaml_ng::to_string(&config)?);
            Ok(())
        }
    }
}

/// A context a server, this one's first.
fn endpoints(state: &State) -> Vec<Endpoint> {
    let context = |name: &str| match name == state.name {
        true => "quarterdeck".to_owned(),
        false => format!("quarterdeck-{name}"),
    };
    state
        .everywhere()
        .map(|(name, addresses)| Endpoint { context: context(name), url: addresses.api_url.clone() })
        .collect()
}
