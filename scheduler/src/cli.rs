//! `quarterdeck scheduler`: kube-scheduler's flags.
//!
//! Owns the flags and what they override in the configuration file. Flags that only steer parts this scheduler
//! does not have are accepted with a warning, so that manifests written for upstream start it.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use clap::Parser;
use machinery::flags::Given;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use crate::config::types::GoDuration;
use crate::core::queue::Backoff;
use crate::core::scheduler::Scheduler;
use crate::inert_flags::KubeScheduler;
use crate::shell::run::{KINDS, Message, inbox, now_ms, start_informers};
use crate::shell::service::{self, Options};
use crate::shell::{convert, wire};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Flags of the scheduler.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Path of a KubeSchedulerConfiguration file.
    #[arg(long)]
    pub config: Option<String>,
    /// Path of a kubeconfig file; in a pod, the service account is used without one.
    #[arg(long)]
    pub kubeconfig: Option<String>,
    /// Address of the API server, overriding the kubeconfig.
    #[arg(long)]
    pub master: Option<String>,
    /// Address on which health and metrics are served.
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// Port on which health and metrics are served over HTTPS; 0 serves neither.
    #[arg(long, default_value_t = 10259)]
    pub secure_port: u16,
    /// Certificate of the HTTPS server; one is made if absent.
    #[arg(long, requires = "tls_private_key_file")]
    pub tls_cert_file: Option<String>,
    /// Key of the HTTPS server.
    #[arg(long)]
    pub tls_private_key_file: Option<String>,
    /// Hold a lease before scheduling.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub leader_elect: Option<bool>,
    /// How long others wait after the last renewal of the lease.
    #[arg(long)]
    pub leader_elect_lease_duration: Option<String>,
    /// How long the leader tries to renew before it stops.
    #[arg(long)]
    pub leader_elect_renew_deadline: Option<String>,
    /// Pause between tries to hold or renew the lease.
    #[arg(long)]
    pub leader_elect_retry_period: Option<String>,
    /// Kind of the lock; only `leases` is known.
    #[arg(long)]
    pub leader_elect_resource_lock: Option<String>,
    /// Name of the lease.
    #[arg(long)]
    pub leader_elect_resource_name: Option<String>,
    /// Namespace of the lease.
    #[arg(long)]
    pub leader_elect_resource_namespace: Option<String>,
    /// Print why the pod `namespace/name` would or would not fit on each node, with scores, and exit.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub explain_pod: Option<String>,
    /// As --explain-pod, for a pod in a YAML or JSON file.
    #[arg(long, value_name = "FILE")]
    pub explain_file: Option<String>,
    /// Requests a second to the API server; without this, as many as it takes.
    #[arg(long)]
    pub kube_api_qps: Option<f32>,
    /// Requests that may come at once where `--kube-api-qps` is given.
    #[arg(long)]
    pub kube_api_burst: Option<u32>,
    /// How long a pod that fits nowhere waits until it is tried again whatever happened.
    #[arg(long)]
    pub pod_max_in_unschedulable_pods_duration: Option<String>,
    /// Paths that anyone may read.
    #[arg(long, value_delimiter = ',', default_value = "/healthz,/readyz,/livez")]
    pub authorization_always_allow_paths: Vec<String>,
    /// Upstream's flags that change nothing here.
    #[command(flatten)]
    pub inert: Given<KubeScheduler>,
}

#[derive(Parser)]
#[command(name = "scheduler")]
struct Command {
    #[command(flatten)]
    args: Args,
}

impl Args {
    /// Reads flags as they stand on a command line, without the program's name.
    ///
    /// # Errors
    /// When a flag is unknown or its value cannot be read.
    pub fn from_flags(flags: impl IntoIterator<Item = String>) -> Result<Self, clap::Error> {
        let all = std::iter::once("scheduler".to_owned()).chain(flags);
        Command::try_parse_from(all).map(|c| c.args)
    }

    /// The configuration file with the flags' overrides.
    ///
    /// # Errors
    /// When the file does not hold, or a duration cannot be read.
    pub fn settings(&self) -> Result<Settings, Error> {
        let mut settings = match &self.config {
            Some(path) => Settings::load(path)?,
            None => Settings::defaults(),
        };
        let election = &mut settings.file.leader_election;
        if let Some(elect) = self.leader_elect {
            election.leader_elect = elect;
        }
        for (flag, field) in [
            (&self.leader_elect_lease_duration, &mut election.lease_duration),
            (&self.leader_elect_renew_deadline, &mut election.renew_deadline),
            (&self.leader_elect_retry_period, &mut election.retry_period),
        ] {
            if let Some(text) = flag {
                let parsed = machinery::time::duration::parse(text)?;
                *field = GoDuration(i64::try_from(parsed.as_nanos())?);
            }
        }
        for (flag, field) in [
            (&self.leader_elect_resource_lock, &mut election.resource_lock),
            (&self.leader_elect_resource_name, &mut election.resource_name),
            (&self.leader_elect_resource_namespace, &mut election.resource_namespace),
        ] {
            if let Some(text) = flag {
                field.clone_from(text);
            }
        }
        if let Some(text) = &self.pod_max_in_unschedulable_pods_duration {
            settings.backoff.parked_ms = i64::try_from(machinery::time::duration::parse(text)?.as_millis())?;
        }
        Ok(settings)
    }

    async fn client(&self, settings: &Settings) -> Result<kube::Client, Error> {
        let from_file = Some(&settings.file.client_connection.kubeconfig).filter(|p| !p.is_empty());
        let mut config = match self.kubeconfig.as_ref().or(from_file) {
            Some(path) => {
                let kubeconfig = kube::config::Kubeconfig::read_from(path)?;
                kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?
            }
            None => kube::Config::infer().await?,
        };
        if let Some(master) = &self.master {
            config.cluster_url = master.parse()?;
        }
        // Watches are open for minutes; the server ends them.
        config.read_timeout = None;
        // Upstream's burst where only a rate is given.
        let burst = self.kube_api_burst.unwrap_or(100);
        Ok(machinery::client::from_config(config, self.kube_api_qps.unwrap_or(0.0), burst)?)
    }
}

/// A name that no other candidate has.
fn identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}_{:016x}", host.trim(), rand::random::<u64>())
}

/// Runs the scheduler, or explains a pod and returns.
///
/// # Errors
/// When the configuration does not hold or a part cannot be set up.
pub async fn run(args: Args, shutdown: CancellationToken) -> Result<(), Error> {
    args.inert.warn();
    let settings = args.settings()?;
    let client = args.client(&settings).await?;
    if args.explain_pod.is_some() || args.explain_file.is_some() {
        let table = explain(&args, client, settings).await?;
        std::io::stdout().write_all(table.as_bytes())?;
        return Ok(());
    }
    let tls_files = args.tls_cert_file.clone().zip(args.tls_private_key_file.clone());
    let options = Options {
        identity: identity(),
        address: (args.secure_port != 0).then(|| SocketAddr::new(args.bind_address, args.secure_port)),
        tls_files,
        open_paths: args.authorization_always_allow_paths.clone(),
        seed: rand::random(),
    };
    Ok(service::run(client, settings, options, shutdown).await?)
}

/// Fills a core from the API once and asks it about the pod.
async fn explain(args: &Args, client: kube::Client, settings: Settings) -> Result<String, Error> {
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let (out, mut messages) = inbox();
    start_informers(&client, &out, &stop, &mut tasks);
    let mut core = Scheduler::new(settings.profiles, Backoff::default(), 0);
    let mut synced = std::collections::HashSet::new();
    while synced.len() < KINDS {
        match messages.recv().await {
            Some(Message::Intake(batch)) => batch.into_iter().for_each(|i| core.apply(i, now_ms())),
            Some(Message::Synced(kind)) => drop(synced.insert(kind)),
            Some(_) => {}
            None => return Err("the informers ended".into()),
        }
    }
    stop.cancel();
    drop(messages);
    let pod: wire::Pod = match (&args.explain_file, &args.explain_pod) {
        (Some(path), _) => serde_yaml_ng::from_str(&std::fs::read_to_string(path)?)?,
        (None, name) => {
            let name = name.as_deref().unwrap_or_default();
            let (namespace, name) = name.split_once('/').ok_or("--explain-pod wants NAMESPACE/NAME")?;
            let reference = crate::core::scheduler::PodRef {
                uid: Arc::default(),
                namespace: namespace.into(),
                name: name.into(),
                generation: 0,
            };
            let pod = crate::shell::api::Api::new(client).pod(&reference).await?;
            pod.ok_or_else(|| format!("pod {namespace}/{name} not found"))?
        }
    };
    let input = convert::pod(&pod).ok_or("the pod has ended")?;
    let explanation = core.explain(&input).ok_or("no profile answers to the pod's schedulerName")?;
    Ok(explanation.table())
}
