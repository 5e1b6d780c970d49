//! The service proxy under the load of a large cluster: how long a full write and a single change take, kernel included.

use std::{
    fs::File,
    net::IpAddr,
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use node::{
    network::{
        feed::{Change, Event, Kind},
        nft::{Nft, script},
        view::{EndpointView, Key, PortView, Protocol, ServiceKind, ServiceView, SlicePort, SliceView},
    },
    proxy::{
        TABLE,
        core::{Core, CoreConfig},
        rules::Settings,
    },
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Measures in a network namespace of its own; needs root and nft.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Services.
    #[arg(long, default_value_t = 5_000)]
    services: usize,
    /// Endpoints a service.
    #[arg(long, default_value_t = 10)]
    endpoints: usize,
    /// Single changes measured.
    #[arg(long, default_value_t = 100)]
    changes: usize,
}

const NAMESPACE: &str = "qd-nodenet-bench";

/// Runs the measurement and prints it.
pub fn run(options: &Options) -> Result<()> {
    let ip = |args: &[&str]| Command::new("ip").args(args).output();
    let _ = ip(&["netns", "del", NAMESPACE])?;
    let made = ip(&["netns", "add", NAMESPACE])?;
    if !made.status.success() {
        return Err(String::from_utf8_lossy(&made.stderr).into_owned().into());
    }
    let options = options.clone();
    let measured = thread::spawn(move || -> Result<()> {
        nix::sched::setns(
            File::open(format!("/run/netns/{NAMESPACE}"))?,
            nix::sched::CloneFlags::CLONE_NEWNET,
        )?;
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(measure(&options))
    });
    let outcome = measured.join().map_err(|_| "the measurement panicked");
    ip(&["netns", "del", NAMESPACE])?;
    outcome?
}

async fn measure(options: &Options) -> Result<()> {
    let config = CoreConfig {
        node_name: "node-0".to_owned(),
        settings: Settings::default(),
        local_from_node: false,
        node_ports_on_node_ips: false,
        policies: true,
    };
    let (mut core, nft) = (Core::new(config), Nft::default());
    for number in 0..options.services {
        core.handle(&Event::Service(Change::Set(Arc::new(service(number)))));
        core.handle(&Event::Slice(Change::Set(Arc::new(slice(number, options.endpoints, 0)))));
    }
    [Kind::Service, Kind::Slice].iter().for_each(|kind| core.handle(&Event::Synced(*kind)));
    let (computed, applied) = sync(&mut core, &nft).await?;
    println!(
        "| {} services, {} endpoints | computed | with the kernel |",
        options.services,
        options.services * options.endpoints
    );
    println!("|---|--:|--:|");
    println!("| full write | {:.0} ms | {:.0} ms |", millis(computed), millis(applied));
    let mut samples = Vec::new();
    for change in 0..options.changes {
        let number = change * 37 % options.services;
        core.handle(&Event::Slice(Change::Set(Arc::new(slice(number, options.endpoints, change + 1)))));
        samples.push(sync(&mut core, &nft).await?);
    }
    for (name, at) in [("median", 50), ("99th percentile", 99)] {
        let value = |pick: fn(&(Duration, Duration)) -> Duration| {
            let mut all: Vec<Duration> = samples.iter().map(pick).collect();
            all.sort();
            all.get((all.len() * at / 100).min(all.len().saturating_sub(1))).copied().unwrap_or_default()
        };
        println!(
            "| one endpoint replaced, {name} | {:.2} ms | {:.1} ms |",
            millis(value(|s| s.0)),
            millis(value(|s| s.1))
        );
    }
    println!("\nobjects in the table: {}; resident memory: {} MiB", core.table_len(), resident_mib()?);
    Ok(())
}

/// Time to compute, and time until the kernel has it.
async fn sync(core: &mut Core, nft: &Nft) -> Result<(Duration, Duration)> {
    let started = Instant::now();
    let plan = core.sync();
    let text = script::render(TABLE, &plan.changes);
    let computed = started.elapsed();
    nft.apply(&text).await?;
    Ok((computed, started.elapsed()))
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

fn resident_mib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? / 1_024)
}

fn octets(number: usize) -> [u8; 2] {
    [u8::try_from(number / 250 % 250).unwrap_or_default(), u8::try_from(number % 250).unwrap_or_default() + 1]
}

fn service(number: usize) -> ServiceView {
    let [high, low] = octets(number);
    ServiceView {
        key: Key::new("bench", &format!("svc-{number}")),
        kind: ServiceKind::ClusterIp,
        cluster_ips: vec![IpAddr::from([10, 96, high, low])],
        headless: false,
        external_name: None,
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: Vec::new(),
        ports: vec![PortView { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: None }],
        affinity_secs: None,
        internal_local: false,
        external_local: false,
        health_check_node_port: None,
        foreign_proxy: false,
    }
}

/// Endpoints of a service; each `version` has one other endpoint than the one before.
fn slice(number: usize, endpoints: usize, version: usize) -> SliceView {
    let [high, low] = octets(number);
    let endpoint = |index: usize| {
        let third = if index == version % endpoints { 200 + version % 50 } else { index };
        EndpointView {
            ip: IpAddr::from([10, 100 + u8::try_from(third % 150).unwrap_or_default(), high, low]),
            node: Some(format!("node-{}", index % 100).into()),
            hostname: None,
            ready: true,
            serving: true,
            terminating: false,
            zone_hints: Box::default(),
            node_hints: Box::default(),
        }
    };
    SliceView {
        key: Key::new("bench", &format!("svc-{number}-1")),
        service: format!("svc-{number}").into(),
        ports: vec![SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 8_080 }],
        endpoints: (0..endpoints).map(endpoint).collect(),
        triggered: None,
        not_proxied: false,
    }
}
