//! `bench apiserver`: upstream's kube-apiserver with etcd, and ours with its embedded store, one after the other.
//!
//! Owns the order of the measurements and the table. Memory is read where it means something: before any load, and
//! after the lists of 10,000 pods; the loads that fill the store come after that.

mod growth;
mod load;
mod objects;
mod watch;

use std::time::Duration;

use clap::Args;

use crate::control_plane::http::{Call, Connection};
use crate::control_plane::{ControlPlane, Programs, Result, Side};
use crate::table::{Row, Sample, markdown};
pub use load::{Until, closed_loop};

/// How long a started server is left alone before its idle memory is read.
const SETTLE: Duration = Duration::from_secs(3);
/// Clients of the loads on single objects.
const CLIENTS: usize = 50;
/// Clients of the lists: one a core.
const LIST_CLIENTS: usize = 2;
const PODS: u64 = 10_000;
const WATCHERS: usize = 1000;
/// Objects beside the watched ones, for what an event costs then.
const FILLERS: u64 = 50_000;
const FEW: &str = "processor time an event, kind of 64 objects";
const MANY: &str = "processor time an event, kind of over 50,000";

/// Measures upstream first, then ours.
#[derive(Args, Clone, Debug)]
pub struct Options {
    #[command(flatten)]
    programs: Programs,
    /// Seconds a measurement.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Only measurements whose name contains this; what they need is made all the same.
    #[arg(long, default_value = "")]
    only: String,
}

/// What is measured, and in which unit.
struct Measured {
    name: &'static str,
    unit: &'static str,
    less_is_better: bool,
    sample: Sample,
}

pub fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut sides = Vec::new();
    for side in options.programs.sides() {
        sides.push((side, runtime.block_on(measure(options, side))?));
    }
    if let [(_, upstream), (_, ours)] = &sides[..] {
        let rows: Vec<Row> = upstream.iter().zip(ours).map(row).collect();
        print!("{}", markdown("kube-apiserver + etcd", &rows));
    }
    Ok(())
}

fn row((upstream, ours): (&Measured, &Measured)) -> Row {
    Row {
        name: upstream.name.to_owned(),
        unit: upstream.unit,
        less_is_better: upstream.less_is_better,
        upstream: upstream.sample.clone(),
        ours: ours.sample.clone(),
    }
}

fn plain(value: f64) -> Sample {
    Sample { value, p50_ms: None, p99_ms: None }
}

/// One side's run in the making.
struct Run<'a> {
    options: &'a Options,
    side: Side,
    plane: ControlPlane,
    all: Vec<Measured>,
}

async fn measure(options: &Options, side: Side) -> Result<Vec<Measured>> {
    let plane = ControlPlane::start(&options.programs, side).await?;
    let mut run = Run { options, side, plane, all: Vec::new() };
    run.take("start to ready", "ms", plain(run.plane.ready_after.as_secs_f64() * 1000.0));
    tokio::time::sleep(SETTLE).await;
    run.memory("resident, idle, all processes", "resident, idle, API server alone")?;
    run.namespaces().await?;
    run.lists().await?;
    run.memory("resident after the lists, all processes", "resident after the lists, API server alone")?;
    run.event_cost(FEW).await?;
    run.objects().await?;
    run.watch_events().await?;
    run.fill().await?;
    run.event_cost(MANY).await?;
    Ok(run.all)
}

impl Run<'_> {
    fn take(&mut self, name: &'static str, unit: &'static str, sample: Sample) {
        eprintln!("{}: {name}: {:.1} {unit}, p99 {:?} ms", self.side.name(), sample.value, sample.p99_ms);
        let less_is_better = unit != "/s";
        self.all.push(Measured { name, unit, less_is_better, sample });
    }

    fn wanted(&self, name: &str) -> bool {
        name.contains(self.options.only.as_str())
    }

    fn memory(&mut self, all: &'static str, alone: &'static str) -> Result<()> {
        self.take(all, "MiB", plain(self.plane.resident_mib(None)?));
        self.take(alone, "MiB", plain(self.plane.resident_mib(Some("apiserver"))?));
        Ok(())
    }

    async fn namespaces(&self) -> Result<()> {
        let mut connection = Connection::open(self.plane.address).await?;
        for name in [objects::PODS, objects::CONFIG_MAPS, objects::WATCHED] {
            connection.call(objects::namespace(name)).await?;
        }
        for number in 0..objects::WATCHED_OBJECTS {
            connection.call(objects::create_watched(number)).await?;
        }
        Ok(())
    }

    async fn lists(&mut self) -> Result<()> {
        let until = Until::Count(PODS);
        let made = closed_loop(self.plane.address, CLIENTS, until, objects::create_pod).await?;
        self.take("pod creates, 50 clients", "/s", made);
        let mut connection = Connection::open(self.plane.address).await?;
        let len = connection.call(Call::get(objects::pods_path(""))).await?;
        eprintln!("{}: a list of {PODS} pods has {:.1} MB", self.side.name(), len as f64 / 1e6);
        let json = |query: &'static str| move |_: u64| Call::get(objects::pods_path(query));
        self.closed("LIST of 10,000 pods, JSON", LIST_CLIENTS, json("")).await?;
        self.closed("LIST of 10,000 pods, JSON, any version", LIST_CLIENTS, json("?resourceVersion=0"))
            .await?;
        let protobuf = |_: u64| Call::get(objects::pods_path("")).protobuf();
        self.closed("LIST of 10,000 pods, protobuf", LIST_CLIENTS, protobuf).await?;
        let page = json("?limit=500");
        self.closed("LIST of 500 pods of 10,000", LIST_CLIENTS, page).await?;
        let nothing = json("?labelSelector=app%3Dnone");
        self.closed("LIST with a selector that matches nothing", LIST_CLIENTS, nothing).await
    }

    async fn objects(&mut self) -> Result<()> {
        self.closed("ConfigMap creates of 1 KiB, 50 clients", CLIENTS, objects::create_config_map).await?;
        let mut connection = Connection::open(self.plane.address).await?;
        for number in 0..objects::TARGETS {
            connection.call(objects::create_target(number)).await?;
        }
        self.closed("merge patches, 50 clients", CLIENTS, objects::patch_target).await?;
        self.closed("GETs, 50 clients", CLIENTS, objects::get_target).await
    }

    async fn closed(
        &mut self,
        name: &'static str,
        clients: usize,
        call: impl Fn(u64) -> Call + Send + Sync + 'static,
    ) -> Result<()> {
        if !self.wanted(name) {
            return Ok(());
        }
        let until = Until::Elapsed(Duration::from_secs(self.options.seconds));
        let sample = closed_loop(self.plane.address, clients, until, call).await?;
        self.take(name, "/s", sample);
        Ok(())
    }

    /// Objects of the kind that is watched, in another namespace.
    async fn fill(&self) -> Result<()> {
        if self.wanted(MANY) {
            closed_loop(self.plane.address, CLIENTS, Until::Count(FILLERS), objects::create_filler).await?;
        }
        Ok(())
    }

    async fn event_cost(&mut self, name: &'static str) -> Result<()> {
        if self.wanted(name) {
            let micros = growth::micros_an_event(&self.plane).await?;
            self.take(name, "µs", plain(micros));
        }
        Ok(())
    }

    async fn watch_events(&mut self) -> Result<()> {
        let name = "watch events, 1000 watchers";
        if !self.wanted(name) {
            return Ok(());
        }
        let duration = Duration::from_secs(self.options.seconds);
        let counted = watch::run(self.plane.address, WATCHERS, duration).await?;
        eprintln!("{}: {} watchers were cut off as too slow", self.side.name(), counted.cut);
        self.take(name, "/s", counted.events);
        self.take("writes behind the watch events", "/s", counted.writes);
        Ok(())
    }
}
