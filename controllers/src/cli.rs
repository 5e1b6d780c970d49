//! The command line, with the flag names of kube-controller-manager. [`Args`] becomes [`Options`]; [`run`] sets up
//! the client, takes part in leader election and runs the loops.

use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use machinery::leader::{self, Outcome};
use tokio_util::sync::CancellationToken;

use crate::flags::Tuning;
use crate::manager::Clients;
use crate::options::{Credentials, Options, SignerFiles};
use crate::serve::{self, Certificate};

/// Any error, for the binary to print.
pub type AnyError = Box<dyn Error + Send + Sync>;

/// A Go duration: `40s`, `5m0s`, `1h`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let parsed = machinery::time::duration::parse(text)?;
    Duration::try_from(parsed).map_err(|_| format!("{text:?} must not be negative"))
}

/// The flags.
#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    /// Path to a kubeconfig with the API server's address and this process' credentials.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Address of the API server; overrides the kubeconfig's.
    #[arg(long)]
    pub master: Option<String>,
    /// Controllers to run: `*`, names, and names with `-` in front.
    #[arg(long, value_delimiter = ',', default_value = "*", allow_hyphen_values = true)]
    pub controllers: Vec<String>,
    /// Each controller acts with its own service account's token.
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub use_service_account_credentials: bool,
    /// Each controller impersonates its own service account (needs the right to).
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub impersonate_service_accounts: bool,
    /// Work only while holding the lease.
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub leader_elect: bool,
    /// How long others wait after the last renewal they saw.
    #[arg(long, default_value = "15s", value_parser = duration)]
    pub leader_elect_lease_duration: Duration,
    /// How long the leader tries to renew.
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub leader_elect_renew_deadline: Duration,
    /// Pause between tries.
    #[arg(long, default_value = "2s", value_parser = duration)]
    pub leader_elect_retry_period: Duration,
    /// Kind of the lock object; leases are the only one.
    #[arg(long, default_value = "leases")]
    pub leader_elect_resource_lock: String,
    /// Name of the lock object.
    #[arg(long, default_value = "kube-controller-manager")]
    pub leader_elect_resource_name: String,
    /// Namespace of the lock object.
    #[arg(long, default_value = "kube-system")]
    pub leader_elect_resource_namespace: String,
    /// Address of the health and metrics endpoint.
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// Port of the health and metrics endpoint; 0 for none.
    #[arg(long, default_value_t = 10257)]
    pub secure_port: u16,
    /// Certificate of the endpoint; made on start when absent.
    #[arg(long)]
    pub tls_cert_file: Option<PathBuf>,
    /// Key of the endpoint.
    #[arg(long)]
    pub tls_private_key_file: Option<PathBuf>,
    /// Certificate authority published to every namespace.
    #[arg(long)]
    pub root_ca_file: Option<PathBuf>,
    /// Key that signs the tokens of legacy token secrets.
    #[arg(long)]
    pub service_account_private_key_file: Option<PathBuf>,
    /// Authority that signs certificates for signers without one of their own.
    #[arg(long)]
    pub cluster_signing_cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(long)]
    pub cluster_signing_key_file: Option<PathBuf>,
    /// Flags of single controllers.
    #[command(flatten)]
    pub tuning: Tuning,
}

#[derive(Parser)]
#[command(no_binary_name = true, name = "controller-manager")]
struct Command {
    #[command(flatten)]
    args: Args,
}

impl Args {
    /// Parses flags without a program name in front.
    ///
    /// # Errors
    /// What clap says about them.
    pub fn from_flags(flags: impl IntoIterator<Item = String>) -> Result<Self, clap::Error> {
        Command::try_parse_from(flags).map(|command| command.args)
    }

    /// The settings of the loops.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn options(&self) -> Result<Options, AnyError> {
        let mut options = Options { controllers: self.controllers.clone(), ..Options::default() };
        options.credentials = match (self.use_service_account_credentials, self.impersonate_service_accounts)
        {
            (_, true) => Credentials::Impersonate,
            (true, false) => Credentials::ServiceAccounts,
            (false, false) => Credentials::Process,
        };
        options.root_ca = read(self.root_ca_file.as_deref())?;
        options.service_account_key = read(self.service_account_private_key_file.as_deref())?;
        options.signing.default = pair(&self.cluster_signing_cert_file, &self.cluster_signing_key_file);
        self.tuning.apply(&mut options)?;
        Ok(options)
    }
}

/// A signer's two files, when both are given.
pub fn pair(cert: &Option<PathBuf>, key: &Option<PathBuf>) -> Option<SignerFiles> {
    let (cert, key) = (cert.clone()?, key.clone()?);
    Some(SignerFiles { cert, key })
}

fn read(path: Option<&Path>) -> Result<Option<Vec<u8>>, AnyError> {
    let Some(path) = path.filter(|path| !path.as_os_str().is_empty()) else { return Ok(None) };
    std::fs::read(path).map(Some).map_err(|error| format!("{}: {error}", path.display()).into())
}

/// Runs the controllers until `shutdown`.
///
/// # Errors
/// When flags, files or ports cannot be used. Requests that fail are tried again, not errors.
pub async fn run(args: Args, shutdown: CancellationToken) -> Result<(), AnyError> {
    args.tuning.inert.warn();
    let options = args.options()?;
    let clients = clients(&args).await?;
    if args.secure_port != 0 {
        let chain = read(args.tls_cert_file.as_deref())?;
        let key = read(args.tls_private_key_file.as_deref())?;
        let certificate = chain.zip(key).map(|(chain, key)| Certificate { chain, key });
        let address = SocketAddr::new(args.bind_address, args.secure_port);
        let open_paths = args.tuning.authorization_always_allow_paths.clone();
        let readers = serve::Readers { client: clients.process.clone(), open_paths };
        serve::serve(address, certificate, readers, shutdown.clone()).await?;
    }
    if !args.leader_elect {
        return crate::run_with(clients, options, shutdown).await;
    }
    while !shutdown.is_cancelled() {
        let (clients, options) = (clients.clone(), options.clone());
        let (lock, failure) = (election(&args), Arc::new(parking_lot::Mutex::new(None)));
        let failed = failure.clone();
        let client = clients.process.clone();
        let outcome = leader::run(client, lock, shutdown.clone(), |stop| async move {
            if let Err(error) = crate::run_with(clients, options, stop).await {
                *failed.lock() = Some(error);
            }
        });
        let outcome = outcome.await?;
        if let Some(error) = failure.lock().take() {
            return Err(error);
        }
        if outcome == Outcome::Lost {
            tracing::warn!("leadership lost; running for it again");
        }
    }
    Ok(())
}

fn election(args: &Args) -> leader::Config {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "quarterdeck".into());
    let identity = format!("{host}_{:016x}", rand::random::<u64>());
    let mut config = leader::Config::new(
        &args.leader_elect_resource_namespace,
        &args.leader_elect_resource_name,
        identity,
    );
    config.lease_duration = args.leader_elect_lease_duration;
    config.renew_deadline = args.leader_elect_renew_deadline;
    config.retry_period = args.leader_elect_retry_period;
    config
}

/// The client of the process, and one like it without credentials.
async fn clients(args: &Args) -> Result<Clients, AnyError> {
    let wanted = machinery::client::Options {
        kubeconfig: args.kubeconfig.clone(),
        master: args.master.clone(),
        ..machinery::client::Options::default()
    };
    let mut config = machinery::client::config(&wanted).await?;
    config.read_timeout = None;
    let mut anonymous = config.clone();
    anonymous.auth_info = kube::config::AuthInfo::default();
    let (qps, burst) = args.tuning.rate();
    Ok(Clients {
        watching: crate::transport::watching(config.clone())?,
        process: machinery::client::from_config(config, qps, burst)?,
        anonymous: Some(machinery::client::from_config(anonymous, qps, burst)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &[&str]) -> Args {
        Args::from_flags(flags.iter().map(|flag| flag.to_string())).expect("valid flags")
    }

    #[test]
    fn flags_are_upstreams() {
        let args = parse(&[
            "--kubeconfig=/k",
            "--leader-elect=false",
            "--controllers=*,-job",
            "--use-service-account-credentials",
        ]);
        assert!(!args.leader_elect && args.use_service_account_credentials);
        assert_eq!(args.controllers, ["*", "-job"]);
        let options = parse(&[
            "--node-monitor-grace-period=40s",
            "--cluster-cidr=10.1.0.0/16",
            "--allocate-node-cidrs=true",
        ]);
        let options = options.options().expect("options");
        assert_eq!(options.nodes.monitor_grace, Duration::from_secs(40));
        assert_eq!(options.network.cluster_cidrs.len(), 1);
        assert!(options.network.allocate_node_cidrs);
        assert_eq!(options.credentials, Credentials::Process);
    }

    #[test]
    fn flags_without_effect_are_known() {
        let args =
            parse(&["--profiling=false", "--cert-dir", "/x", "-v=2", "--requestheader-client-ca-file=/ca"]);
        assert_eq!(args.tuning.inert.names(), ["cert-dir", "profiling", "requestheader-client-ca-file", "v"]);
        assert!(Args::from_flags(["--no-such-flag".to_owned()]).is_err());
    }

    #[test]
    fn switches_and_worker_numbers_reach_the_options() {
        let args = parse(&[
            "--enable-garbage-collector=false",
            "--enable-dynamic-provisioning=false",
            "--controller-shutdown-timeout=3s",
            "--concurrent-ephemeralvolume-syncs=7",
            "--kube-api-qps=20",
        ]);
        assert_eq!(args.tuning.rate(), (20.0, 30));
        let options = args.options().expect("options");
        assert_eq!(options.controllers, ["*", "-garbage-collector-controller"]);
        assert!(!options.volumes.provision && options.shutdown_grace == Duration::from_secs(3));
        assert_eq!(options.workers.others, [("ephemeral-volume-controller", 7)]);
        let rows = crate::table::TABLE.iter().map(|row| row.name);
        let names: Vec<&str> = rows.collect();
        for name in [
            "garbage-collector-controller",
            "ephemeral-volume-controller",
            "service-lb-controller",
            "validatingadmissionpolicy-status-controller",
            "endpointslice-mirroring-controller",
        ] {
            assert!(names.contains(&name), "{name}");
        }
    }

    #[test]
    fn defaults_are_the_options_defaults() {
        let (from_flags, own) = (parse(&[]).options().expect("options"), Options::default());
        assert_eq!(format!("{from_flags:?}"), format!("{own:?}"));
    }
}
