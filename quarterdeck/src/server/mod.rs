//! `quarterdeck server`: how a server comes to be, starts its roles, and stops them.
//!
//! Nothing half-created: certificates are made in a folder beside and renamed into place, and `state.json`, which
//! makes the directory a server's, is written last. Roles start from the store up and stop from the top down, so that
//! leases and leadership are handed over while the store still answers.

mod init;
mod join;
pub mod join_client;
mod join_service;
pub mod layout;
mod membership;
pub mod options;
mod preflight;
mod renewal;
mod roles;
mod seed;

use std::sync::Arc;
use std::time::SystemTime;

use crate::failure::{Failure, Result};
use crate::pki::leaves;
use join_service::JoinService;
use layout::{Addresses, Layout, State};
use options::ServerOptions;
use roles::Roles;

pub async fn run(options: ServerOptions) -> Result<()> {
    let shutdown = crate::shutdown::on_signal()?;
    let layout = Layout::new(&options.data_dir);
    let listeners = [
        ("API", options.listen(options.api_port)?),
        ("join", options.listen(options.join_port)?),
        ("store client", options.listen(options.store_client_port)?),
        ("store peer", options.listen(options.store_peer_port)?),
    ];
    let known = layout.load()?;
    preflight::machine_is_fit(layout.root())?;
    preflight::ports_are_free(&listeners)?;
    let mut state = match (known, &options.token) {
        (Some(state), _) => remembered(state, &options)?,
        (None, Some(token)) => init::join(&layout, &options, token).await?,
        (None, None) if options.init => init::create(&layout, &options)?,
        (None, None) => {
            return Err(Failure::new(format!("no server lives in {} yet", layout.root().display()))
                .mend("start a new cluster with --init, or join one with --token"));
        }
    };
    let identity = options.identity(&state)?;
    leaves::renew(&layout.pki(), &identity, SystemTime::now())?;
    state.reached_at = Addresses {
        api_url: options.url(options.api_port)?,
        store_url: options.url(options.store_client_port)?,
        join: std::net::SocketAddr::new(options.advertised()?, options.join_port).to_string(),
    };
    layout.save(&state)?;
    init::write_kubeconfigs(&layout, &state)?;

    let roles = Roles::start(&layout, &state, &options, &shutdown).await?;
    let service = Arc::new(JoinService {
        layout: layout.clone(),
        state: state.clone(),
        membership: Arc::new(membership::StoreMembership::new(roles.member())),
    });
    let join = tokio::spawn(service.serve(listeners[1].1, shutdown.clone()));
    tokio::spawn(renewal::watch(layout.clone(), identity, shutdown.clone()));
    seed::plant(&layout, &state, &shutdown).await?;
    tracing::info!(api = state.reached_at.api_url, kubeconfig = %layout.admin_kubeconfig().display(), "the server is up");

    notify_ready();

    let outcome = roles.run_until(&shutdown).await;
    shutdown.cancel();
    join.await??;
    outcome
}

/// Tells systemd, where it asked. Without a NOTIFY_SOCKET there is nobody to tell.
fn notify_ready() {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "systemd could not be told that the server is ready");
    }
}

/// A directory that already is a server's: it must be this server's.
fn remembered(state: State, options: &ServerOptions) -> Result<State> {
    if state.name != options.name {
        return Err(Failure::new(format!(
            "{} is the data of server {:?}, not of {:?}",
            options.data_dir.display(),
            state.name,
            options.name
        ))
        .mend("give its own --name, or another --data-dir"));
    }
    options.agree_with(&state.cluster_cidr, &state.service_cidr, &state.cluster_domain)?;
    if options.init || options.token.is_some() {
        tracing::info!("this server is already a member; --init and --token change nothing");
    }
    Ok(state)
}
