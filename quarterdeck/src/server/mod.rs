//! `quarterdeck server`: how a server comes to be, starts its roles, and stops them.
//!
//! Nothing half-created: certificates are made in a folder beside and renamed into place, and `state.json`, which
//! makes the directory a server's, is written last. Roles start from the store up and stop from the top down, so that
//! leases and leadership are handed over while the store still answers.

pub mod directory;
mod init;
pub mod join;
pub mod join_client;
mod join_service;
pub mod layout;
mod membership;
pub mod options;
mod renewal;
mod roles;
mod seed;

use std::sync::Arc;
use std::time::SystemTime;

use raft_store::Member;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, REMOVED_STATUS, Result};
use crate::pki::authority::fingerprint;
use crate::pki::files::{keep_to_owner, read_text};
use crate::pki::{ServerIdentity, leaves};
use crate::preflight::machine;
use crate::token::JoinToken;
use join::check_name;
use join_service::JoinService;
use layout::{Addresses, Layout, State};
use options::ServerOptions;
use renewal::Renewal;
use roles::Loops;

/// A server that exists: its directory is complete, and nothing runs yet.
struct Server {
    options: ServerOptions,
    layout: Layout,
    state: State,
    identity: ServerIdentity,
}

pub async fn run(options: ServerOptions) -> Result<()> {
    keep_to_owner();
    let shutdown = crate::shutdown::on_signal()?;
    crate::config_file::say(options.config.as_deref());
    let server = prepare(options).await?;
    let member = roles::start_store(&server.layout, &server.state, &server.options, &shutdown).await?;
    let outcome = tokio::select! {
        outcome = server.serve(member.clone(), &shutdown) => outcome,
        why = member.failed() => Err(server.lost(&member, why)),
    };
    shutdown.cancel();
    member.shutdown().await;
    outcome
}

/// Makes the directory a server's where it is not yet one. Everything that can be known to fail is looked at first.
async fn prepare(options: ServerOptions) -> Result<Server> {
    let layout = Layout::new(&options.data_dir);
    let known = layout.load()?;
    if known.is_none() {
        check_name(&options.name)?;
    }
    machine::is_fit(layout.root(), machine::SERVER_MEMORY_MIN_MIB)?;
    machine::ports_are_free(&options.listeners()?)?;
    let mut state = match (known, &options.token) {
        (Some(state), _) => remembered(&layout, state, &options)?,
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
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    layout.save(&state)?;
    layout.close_store()?;
    init::write_kubeconfigs(&layout, &state)?;
    Ok(Server { options, layout, state, identity })
}

impl Server {
    /// API server, join service, scheduler and controllers, over a member that runs, until the shutdown.
    async fn serve(&self, member: Arc<Member>, shutdown: &CancellationToken) -> Result<()> {
        let (layout, state, options) = (&self.layout, &self.state, &self.options);
        let stop_api = CancellationToken::new();
        // However this ends, the API server ends with it.
        let _guard = stop_api.clone().drop_guard();
        let api = tokio::select! {
            api = roles::start_api(layout, state, options, member.clone(), stop_api.clone()) => api?,
            () = shutdown.cancelled() => return Ok(()),
        };
        let service = JoinService {
            layout: layout.clone(),
            state: state.clone(),
            membership: Arc::new(membership::StoreMembership::new(member.clone())),
        };
        let listener = TcpListener::bind(options.listen(options.join_port)?).await?;
        tokio::spawn(Arc::new(service).serve(listener, shutdown.clone()));
        // Without a quorum its writes wait, and a stop must not wait for them.
        tokio::select! {
            planted = seed::plant(layout, state, &member) => planted?,
            () = shutdown.cancelled() => {}
        }
        if !shutdown.is_cancelled() {
            self.work(shutdown).await?;
        }
        stop_api.cancel();
        api.stopped().await;
        Ok(())
    }

    /// Scheduler and controllers, from the moment the API has its roles and rights.
    async fn work(&self, shutdown: &CancellationToken) -> Result<()> {
        let (layout, state) = (&self.layout, &self.state);
        let renewed = Arc::new(Notify::new());
        let renewal = Renewal {
            layout: layout.clone(),
            state: state.clone(),
            identity: self.identity.clone(),
            renewed: renewed.clone(),
        };
        tokio::spawn(renewal.watch(shutdown.clone()));
        tokio::spawn(directory::follow(layout.clone(), shutdown.clone()));
        let mut loops = Loops::start(layout, state, &self.options)?;
        notify_ready();
        tracing::info!(api = state.reached_at.api_url, kubeconfig = %layout.admin_kubeconfig().display(), "the server is up");
        let outcome = loop {
            tokio::select! {
                () = shutdown.cancelled() => break Ok(()),
                failure = loops.ended() => break Err(failure),
                () = renewed.notified() => {
                    // Their clients hold the certificates they started with. Another server takes the leases meanwhile.
                    loops.stop().await;
                    loops = Loops::start(layout, state, &self.options)?;
                }
            }
        };
        loops.stop().await;
        outcome
    }

    /// What to say when the member cannot go on. A removal is remembered: nothing of this directory is of use then.
    fn lost(&self, member: &Member, why: &str) -> Failure {
        if !member.was_removed() {
            return Failure::new(format!("store: {why}"));
        }
        let state = State { removed: true, ..self.state.clone() };
        match self.layout.save(&state) {
            Ok(()) => removed(&self.layout),
            Err(failure) => failure,
        }
    }
}

fn removed(layout: &Layout) -> Failure {
    Failure::new("this server was taken out of its cluster, and its data is of no more use")
        .mend(format!("empty {} and start with --token to join as a new server", layout.root().display()))
        .status(REMOVED_STATUS)
}

/// Tells systemd, where it asked. Without a NOTIFY_SOCKET there is nobody to tell.
fn notify_ready() {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "systemd could not be told that the server is ready");
    }
}

/// A directory that already is a server's: it must be this server's, and of the cluster that is meant.
fn remembered(layout: &Layout, state: State, options: &ServerOptions) -> Result<State> {
    if state.removed {
        return Err(removed(layout));
    }
    if state.name != options.name {
        return Err(Failure::new(format!(
            "{} is the data of server {:?}, not of {:?}",
            options.data_dir.display(),
            state.name,
            options.name
        ))
        .mend("give its own --name, or another --data-dir"));
    }
    if let Some(token) = &options.token {
        let token: JoinToken = token.parse()?;
        if token.content.ca_hash != fingerprint(&read_text(&layout.pki_file("ca.crt"))?)? {
            return Err(Failure::new(format!(
                "{} is the data of another cluster than the token's",
                options.data_dir.display()
            ))
            .mend("leave --token out to go on with that cluster, or give an empty --data-dir to join the token's"));
        }
    }
    options.agree_with(&state.cluster_cidr, &state.service_cidr, &state.cluster_domain)?;
    if options.init || options.token.is_some() {
        tracing::info!("this server is already a member; --init and --token change nothing");
    }
    Ok(state)
}
