//! Upstream's own kube-scheduler and our core answer the same pods on the same cluster.
//!
//! Runs when `UPSTREAM_BIN` names a folder with `etcd`, `kube-apiserver` and `kube-scheduler`; `UPSTREAM_PODS` sets
//! the number of pods (default 150). Each pod is explained by the core, then created; upstream's verdict is read
//! from its log (scores of every plugin on every node) or from the pod's condition. Not covered: pods with volumes.

mod cluster;
mod pods;

use std::collections::BTreeMap;
use std::time::Duration;

use scheduler::core::intake::Intake;
use scheduler::core::profile::Profile;
use scheduler::core::queue::Backoff;
use scheduler::core::scheduler::{Command, Scheduler};
use scheduler::shell::run::{KINDS, Message, inbox, now_ms, start_informers};
use scheduler::shell::{convert, wire};
use serde_json::Value;
use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;

use cluster::Yard;

/// The informers are this far behind at most before a question is asked.
const SETTLE: Duration = Duration::from_millis(150);

/// Verdict on a pod: scores by node and plugin, or the message.
#[derive(Debug, PartialEq)]
enum Verdict {
    Scores(BTreeMap<String, BTreeMap<String, i64>>),
    /// One feasible node is taken without scores.
    Only(String),
    Message(String),
}

struct Ours {
    core: Scheduler,
    messages: Receiver<Message>,
}

impl Ours {
    async fn start(client: &kube::Client, stop: &CancellationToken) -> Self {
        let (out, mut messages) = inbox();
        let mut tasks = tokio::task::JoinSet::new();
        start_informers(client, &out, stop, &mut tasks);
        tasks.detach_all();
        let mut core = Scheduler::new(vec![Profile::default_for("default-scheduler")], Backoff::default(), 1);
        let mut synced = std::collections::HashSet::new();
        while synced.len() < KINDS {
            match messages.recv().await {
                Some(Message::Intake(batch)) => batch.into_iter().for_each(|i| core.apply(i, 0)),
                Some(Message::Synced(kind)) => drop(synced.insert(kind)),
                other => panic!("unexpected message {other:?}"),
            }
        }
        Ours { core, messages }
    }

    /// Takes in what the informers have to say until they are silent.
    async fn settle(&mut self) {
        while let Ok(Some(message)) = tokio::time::timeout(SETTLE, self.messages.recv()).await {
            if let Message::Intake(batch) = message {
                batch.into_iter().for_each(|i| self.core.apply(i, now_ms()));
            }
        }
    }

    fn verdict(&mut self, object: &Value) -> Verdict {
        let pod: wire::Pod = serde_json::from_value(object.clone()).expect("a pod");
        let mut input = convert::pod(&pod).expect("a waiting pod");
        input.uid = "00000000-0000-0000-0000-00000000abcd".into();
        let explanation = self.core.explain(&input).expect("the default profile");
        let feasible: Vec<_> = explanation.rows.iter().filter(|r| r.refused.is_none()).collect();
        match &feasible[..] {
            [] => Verdict::Message(self.message(input)),
            [only] => Verdict::Only(only.node.to_string()),
            many => Verdict::Scores(
                many.iter()
                    .map(|r| {
                        (r.node.to_string(), r.scores.iter().map(|(p, s)| ((*p).to_owned(), *s)).collect())
                    })
                    .collect(),
            ),
        }
    }

    /// The whole message of a failed cycle, preemption included.
    fn message(&mut self, input: scheduler::core::spec::PodInput) -> String {
        let uid = scheduler::core::cluster::Uid::new(&input.uid);
        self.core.apply(Intake::Pod(Box::new(input)), now_ms());
        let mut said = None;
        while said.is_none() {
            for command in self.core.schedule_one(now_ms()).expect("the pod waits") {
                if let Command::Report { pod, message, .. } = command
                    && scheduler::core::cluster::Uid::new(&pod.uid) == uid
                {
                    said = Some(message);
                }
            }
        }
        self.core.apply(Intake::PodDeleted { uid }, now_ms());
        said.expect("set above")
    }
}

/// Waits until upstream has bound or refused the pod.
async fn upstream_verdict(yard: &Yard, name: &str) -> Verdict {
    for _ in 0..400 {
        let pod = yard.get(&format!("/api/v1/namespaces/default/pods/{name}")).await;
        if let Some(node) = pod["spec"]["nodeName"].as_str() {
            let scores = yard.scores_of(&format!("default/{name}"));
            return if scores.is_empty() { Verdict::Only(node.to_owned()) } else { Verdict::Scores(scores) };
        }
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        if let Some(condition) =
            conditions.iter().find(|c| c["type"] == "PodScheduled" && c["status"] == "False")
        {
            return Verdict::Message(condition["message"].as_str().unwrap_or_default().to_owned());
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("upstream did not decide {name}");
}

/// Upstream leaves out plugins that skip a pod; a plugin that scores zero everywhere is the same.
fn without_zero_plugins(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Scores(mut nodes) => {
            nodes.values_mut().for_each(|scores| scores.retain(|_, s| *s != 0));
            Verdict::Scores(nodes)
        }
        other => other,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn upstream_and_we_agree_on_a_frozen_cluster() {
    let Ok(binaries) = std::env::var("UPSTREAM_BIN") else {
        eprintln!("UPSTREAM_BIN is not set: nothing to compare with");
        return;
    };
    let count: usize = std::env::var("UPSTREAM_PODS").ok().and_then(|v| v.parse().ok()).unwrap_or(150);
    let yard = Yard::start(&binaries).await;
    yard.create_all("/api/v1/nodes", pods::nodes()).await;
    yard.create_all("/api/v1/namespaces/default/services", pods::services()).await;
    yard.start_scheduler(&binaries).await;
    let stop = CancellationToken::new();
    let mut ours = Ours::start(&yard.client(), &stop).await;
    let mut differences = Vec::new();
    let mut kinds = BTreeMap::<&str, usize>::new();
    for i in 0..count {
        let pod = pods::pod(i);
        let name = pod["metadata"]["name"].as_str().expect("a name").to_owned();
        ours.settle().await;
        let mine = without_zero_plugins(ours.verdict(&pod));
        yard.create("/api/v1/namespaces/default/pods", &pod).await;
        let theirs = without_zero_plugins(upstream_verdict(&yard, &name).await);
        let kind = match &theirs {
            Verdict::Scores(_) => "scored",
            Verdict::Only(_) => "one feasible node",
            Verdict::Message(_) => "refused",
        };
        *kinds.entry(kind).or_default() += 1;
        if mine != theirs {
            differences.push(format!("{name}:\n  ours   {mine:?}\n  theirs {theirs:?}\n  {pod}"));
        }
        if matches!(theirs, Verdict::Message(_)) {
            yard.delete(&format!("/api/v1/namespaces/default/pods/{name}")).await;
        }
    }
    stop.cancel();
    eprintln!("{count} pods compared: {kinds:?}, {} differences", differences.len());
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
