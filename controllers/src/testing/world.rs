//! Controllers running against the [`Model`] until nothing moves any more. The real queue, freshness rule, worker and
//! executor run; only the network, the clock and the cluster around are simulated. Everything is deterministic.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::Value;

use super::kinds;
use super::model::Model;
use crate::options::Options;
use crate::runtime::clock::{Clock, ManualClock};
use crate::runtime::executor::Api;
use crate::runtime::plan::{Action, Answer, Ask, Discovery, Failure, Note, ServedResource};
use crate::runtime::queue::Queue;
use crate::runtime::stores::Stores;
use crate::runtime::worker::{Loop, Memory};
use crate::runtime::{Build, Wiring};

/// Turns after which a run counts as one that never settles.
const TURNS_MAX: usize = 20_000;

/// When the process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// Just before write number n.
    Before(usize),
    /// Just after it, before the answer is seen.
    After(usize),
}

/// What another client does to the object of write number n, just before that write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meddling {
    /// Changes it in a way that means nothing here.
    Changes(usize),
    /// Deletes it.
    Deletes(usize),
}

/// The annotation that a meddling client leaves.
pub const MEDDLED: &str = "somebody.example/was-here";

impl Meddling {
    fn play(self, number: usize, action: &Action, model: &mut Model) {
        let (kind, space, name) = (action.gvr.kind.as_ref(), &action.namespace, &action.name);
        let is_there = kinds::gvr_of(kind).is_some() && model.get(kind, space, name).is_some();
        match self {
            Self::Changes(at) if at == number && is_there => {
                model.edit(kind, space, name, |object| {
                    object["metadata"]["annotations"][MEDDLED] = "yes".into()
                });
            }
            Self::Deletes(at) if at == number && is_there => model.remove(kind, space, name, None),
            _ => {}
        }
    }
}

/// The API server's side: the model, how many writes it saw, and whether the process is dead.
pub struct Shared {
    /// The state.
    pub model: Mutex<Model>,
    writes: Mutex<usize>,
    crash: Mutex<Option<Crash>>,
    meddling: Option<Meddling>,
    dead: Mutex<bool>,
    /// Events recorded, as `reason: message`.
    pub notes: Mutex<Vec<String>>,
    /// Bodies for paths the model does not have (metrics, for example).
    pub extra: Mutex<BTreeMap<String, Value>>,
}

#[async_trait]
impl Api for Shared {
    async fn write(&self, action: &Action) -> Result<Value, Failure> {
        let down = || Failure::local("the process is dead");
        if *self.dead.lock() {
            return Err(down());
        }
        let number = *self.writes.lock();
        *self.writes.lock() += 1;
        let crash = *self.crash.lock();
        if crash == Some(Crash::Before(number)) {
            *self.dead.lock() = true;
            return Err(down());
        }
        if let Some(meddling) = self.meddling {
            meddling.play(number, action, &mut self.model.lock());
        }
        let outcome = self.model.lock().write(action);
        if crash == Some(Crash::After(number)) {
            *self.dead.lock() = true;
            return Err(down());
        }
        outcome
    }

    async fn ask(&self, ask: &Ask) -> Answer {
        let body = match ask {
            Ask::Kinds => return Answer::Kinds(Arc::new(discovery())),
            Ask::Get(path) | Ask::Meta(path) | Ask::Review(path, _) => match self.extra.lock().get(path) {
                Some(body) => Ok(body.clone()),
                None => self.model.lock().read(path),
            },
        };
        body.map_or_else(Answer::Failed, |body| Answer::Json(Arc::new(body)))
    }

    fn record(&self, note: Note) {
        self.notes.lock().push(format!("{}: {}", note.reason, note.message));
    }
}

const CLUSTER_WIDE: [&str; 10] = [
    "Node",
    "Namespace",
    "PersistentVolume",
    "CertificateSigningRequest",
    "ClusterRole",
    "StorageClass",
    "VolumeAttachment",
    "CSINode",
    "CSIDriver",
    "ServiceCIDR",
];

fn discovery() -> Discovery {
    let verbs = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
    let verbs: Vec<String> = verbs.map(str::to_string).into();
    let served = |gvr: crate::runtime::Gvr| {
        let namespaced = !CLUSTER_WIDE.contains(&gvr.kind.as_ref());
        ServedResource { gvr, namespaced, verbs: verbs.clone() }
    };
    Discovery { resources: kinds::all().into_iter().map(served).collect(), failed: Vec::new() }
}

/// Plays everything around the controllers: scheduler, nodes, users. Returns whether it changed anything.
pub type Surroundings = fn(&mut Model) -> bool;

/// What runs.
#[derive(Clone)]
pub struct Scenario {
    /// The controllers.
    pub builds: Vec<Build>,
    /// The settings.
    pub options: Options,
    /// What is there at the start.
    pub objects: Vec<Value>,
    /// Steps a user takes, each after things have settled.
    pub steps: Vec<fn(&mut Model)>,
    /// The cluster around.
    pub surroundings: Surroundings,
    /// How much time may pass in all while waiting for delayed keys.
    pub horizon: Duration,
    /// Bodies for paths the model does not have.
    pub extra: BTreeMap<String, Value>,
}

impl Scenario {
    /// Controllers and objects, a quiet cluster, ten minutes.
    pub fn new(builds: &[Build], objects: &[Value]) -> Self {
        Self {
            builds: builds.to_vec(),
            options: Options::default(),
            objects: objects.to_vec(),
            steps: Vec::new(),
            surroundings: |_| false,
            horizon: Duration::from_secs(600),
            extra: BTreeMap::new(),
        }
    }
}

/// A running scenario.
pub struct World<'a> {
    scenario: &'a Scenario,
    /// The API server's side.
    pub shared: Arc<Shared>,
    clock: Arc<ManualClock>,
    loops: Vec<Arc<Loop>>,
    stores: Stores,
    delivered: usize,
    lagging: bool,
    runtime: tokio::runtime::Runtime,
}

impl<'a> World<'a> {
    /// Starts the controllers. With `lagging`, caches see changes only once no key is ready any more.
    pub fn start(scenario: &'a Scenario, crash: Option<Crash>, lagging: bool) -> Self {
        Self::begin(scenario, crash, None, lagging)
    }

    /// Starts the controllers beside another client.
    pub fn beside(scenario: &'a Scenario, meddling: Meddling) -> Self {
        Self::begin(scenario, None, Some(meddling), false)
    }

    fn begin(
        scenario: &'a Scenario,
        crash: Option<Crash>,
        meddling: Option<Meddling>,
        lagging: bool,
    ) -> Self {
        let mut model = Model::default();
        model.now = super::now();
        for object in &scenario.objects {
            model.apply(object.clone());
        }
        model.created.clear();
        let shared = Arc::new(Shared {
            model: Mutex::new(model),
            writes: Mutex::new(0),
            crash: Mutex::new(crash),
            meddling,
            dead: Mutex::new(false),
            notes: Mutex::default(),
            extra: Mutex::new(scenario.extra.clone()),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let clock = Arc::new(ManualClock::at(super::now()));
        let (loops, stores) = (Vec::new(), Stores::default());
        let mut world = Self { scenario, shared, clock, loops, stores, delivered: 0, lagging, runtime };
        world.restart();
        world
    }

    /// A new process: empty caches, filled by a list.
    fn restart(&mut self) {
        *self.shared.dead.lock() = false;
        if !self.loops.is_empty() {
            // One death a run.
            *self.shared.crash.lock() = None;
        }
        self.stores = Stores::default();
        let clock: Arc<dyn Clock> = self.clock.clone();
        self.loops =
            self.scenario.builds.iter().map(|build| self.start_loop(*build, clock.clone())).collect();
        let model = self.shared.model.lock();
        model.everything().for_each(|object| kinds::apply(&self.stores, object));
        self.delivered = model.log.len();
    }

    fn start_loop(&self, build: Build, clock: Arc<dyn Clock>) -> Arc<Loop> {
        let queue = Queue::new("test", clock.clone());
        let options = Arc::new(self.scenario.options.clone());
        let mut wiring = Wiring::new(self.stores.clone(), queue.clone(), clock.clone(), options);
        let controller = build(&mut wiring);
        let (api, stores, memory): (Arc<dyn Api>, _, _) =
            (self.shared.clone(), self.stores.clone(), Mutex::new(Memory::default()));
        Arc::new(Loop { name: "test", controller, queue, api, stores, clock, memory })
    }

    /// Runs all the steps, each until nothing moves.
    pub fn run(&mut self) -> &mut Self {
        self.settle();
        for step in &self.scenario.steps {
            step(&mut self.shared.model.lock());
            self.settle();
        }
        self
    }

    fn settle(&mut self) {
        let mut left = self.scenario.horizon;
        for _ in 0..TURNS_MAX {
            if !self.lagging {
                self.deliver();
            }
            if self.turn() || self.deliver() || (self.scenario.surroundings)(&mut self.shared.model.lock()) {
                continue;
            }
            let Some(wait) = self.loops.iter().filter_map(|one| one.queue.next_due()).min() else { return };
            if wait > left {
                return;
            }
            left -= wait;
            self.clock.advance(wait.max(Duration::from_millis(1)));
            self.shared.model.lock().now = self.clock.wall();
        }
        panic!(
            "never settles; notes: {:?}",
            self.shared.notes.lock().iter().rev().take(5).collect::<Vec<_>>()
        );
    }

    fn turn(&mut self) -> bool {
        let ready = self.loops.iter().find_map(|one| Some((one.clone(), one.queue.try_pop()?)));
        let Some((one, key)) = ready else { return false };
        self.runtime.block_on(one.turn(&key));
        if *self.shared.dead.lock() {
            self.restart();
        }
        true
    }

    fn deliver(&mut self) -> bool {
        let fresh: Vec<_> = self.shared.model.lock().log[self.delivered..].to_vec();
        self.delivered += fresh.len();
        for event in &fresh {
            if event.deleted {
                kinds::delete(&self.stores, &event.object);
            } else {
                kinds::apply(&self.stores, &event.object);
            }
        }
        !fresh.is_empty()
    }

    /// Sets the wall clock alone, forward or back.
    pub fn jump(&mut self, to: jiff::Timestamp) {
        self.clock.jump_wall(to);
        self.shared.model.lock().now = to;
    }

    /// Writes so far.
    pub fn writes(&self) -> usize {
        *self.shared.writes.lock()
    }
}
