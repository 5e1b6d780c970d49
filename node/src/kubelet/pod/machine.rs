//! The state machine of one pod: [`Machine::step`] turns what is desired and observed into the next actions
//! and the API status; [`Machine::outcome`] feeds an action's result back.
//!
//! Invariants: an action is never emitted while one with the same ticket is under way; at most one container
//! start is under way; nothing is started once the pod is ending; containers and sandboxes are removed only
//! after their processes are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};

use super::action::{Action, Inputs, Outcome, Output, Ticket};
use super::backoff::{Backoffs, go_duration};
use super::container_status::{StatusInputs, Waiting};
use super::observed::{Container, State};
use super::phase::Phase;
use super::plan::{Plan, Start, plan};
use super::resize::{self, Given, Share, Standing};
use super::restart::reported_restart_of_all;
use super::spec;
use super::status::{Failure, finalize, pod_status, rejected_status};

/// How long after a failed pull the reason turns from `ErrImagePull` into `ImagePullBackOff`.
const PULL_ERROR_SHOWN: SignedDuration = SignedDuration::from_secs(3);
/// Pause before a failed start that is no crash (missing ConfigMap, runtime error) is tried again.
const START_RETRY: SignedDuration = SignedDuration::from_secs(5);
/// Pause before a failed step of the pod itself (volumes, sandbox) is tried again: first and longest.
const STEP_RETRY: (SignedDuration, SignedDuration) =
    (SignedDuration::from_secs(1), SignedDuration::from_secs(10));
/// Dead containers kept per name beside the current one: the one whose logs `--previous` shows.
const DEAD_KEPT_PER_NAME: usize = 1;

#[derive(Clone, Debug)]
struct StartError {
    pub(super) waiting: Waiting,
    failed_at: Timestamp,
    retry_at: Timestamp,
    image: Option<String>,
}

/// The memory of one pod between steps.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    pub(super) in_flight: BTreeSet<Ticket>,
    volumes_ready: bool,
    pub(super) torn_down: bool,
    pub(super) ending_since: Option<Timestamp>,
    pub(super) kill_grace: BTreeMap<String, i64>,
    failure: Option<Failure>,
    crash: Backoffs,
    pulls: Backoffs,
    start_errors: BTreeMap<String, StartError>,
    pub(super) waiting: BTreeMap<String, Waiting>,
    noticed: BTreeMap<String, Timestamp>,
    pub(super) given: Given,
    pub(super) started_with: BTreeMap<String, Share>,
    pub(super) resizing: Given,
    pub(super) resize: Option<Standing>,
    step_backoff: StepBackoff,
    old: Option<Arc<PodStatus>>,
}

#[derive(Clone, Debug, Default)]
struct StepBackoff {
    failures: u32,
    retry_at: Option<Timestamp>,
}

impl Machine {
    /// The status of the last step, or the API's.
    fn old_status(&self, pod: &Pod) -> Arc<PodStatus> {
        self.old.clone().unwrap_or_else(|| Arc::new(spec::status(pod).into_owned()))
    }

    /// True while an action with this ticket is under way.
    pub fn is_in_flight(&self, ticket: &Ticket) -> bool {
        self.in_flight.contains(ticket)
    }

    /// True once the volumes are mounted and until they are torn down.
    pub fn volumes_ready(&self) -> bool {
        self.volumes_ready
    }

    /// Feeds back how an action ended.
    pub fn outcome(&mut self, ticket: &Ticket, outcome: Outcome, now: Timestamp) {
        self.in_flight.remove(ticket);
        let failed = outcome != Outcome::Done;
        match (ticket, outcome) {
            (Ticket::Start(name), Outcome::Done) => {
                self.start_errors.remove(name);
                self.waiting.remove(name);
            }
            (Ticket::Start(name), Outcome::Failed(waiting)) => {
                let retry_at = later(now, START_RETRY);
                let error = StartError { waiting, failed_at: now, retry_at, image: None };
                self.start_errors.insert(name.clone(), error);
            }
            (Ticket::Start(name), Outcome::PullFailed(waiting)) => {
                self.pulls.advance(name, now, now);
                let retry_at = self.pulls.waiting(name, now, now).map_or(now, |(_, until)| until);
                let error = StartError { waiting, failed_at: now, retry_at, image: Some(name.clone()) };
                self.start_errors.insert(name.clone(), error);
            }
            (Ticket::Volumes, Outcome::Done) => self.volumes_ready = true,
            (Ticket::Teardown, Outcome::Done) => {
                self.torn_down = true;
                self.volumes_ready = false;
            }
            (Ticket::Resize(id), outcome) => self.resized(id, outcome),
            (Ticket::Kill(id), _) => {
                self.kill_grace.remove(id);
            }
            _ => {}
        }
        let is_start = matches!(ticket, Ticket::Start(_));
        if failed && !is_start {
            self.step_backoff.fail(now);
        } else if !failed && matches!(ticket, Ticket::Volumes | Ticket::Sandbox) {
            self.step_backoff = StepBackoff::default();
        }
    }

    /// Computes the next actions and the status.
    pub fn step(&mut self, inputs: &Inputs<'_>) -> Output {
        let mut output = Output::default();
        if let Some(failure) = inputs.rejected {
            return self.step_rejected(inputs, failure);
        }
        self.note_deadline(inputs, &mut output);
        resize::note(&mut self.given, &mut self.started_with, inputs.pod, inputs.observed);
        if let Some(failure) = inputs.stop.and_then(|s| s.failure.clone()) {
            self.failure.get_or_insert(failure);
        }
        let before = self.status(inputs, self.ending_since.is_some());
        if reported_restart_of_all(inputs.pod, &self.old_status(inputs.pod)) {
            // What is started in this step must know that its removal counts as a restart.
            self.old = Some(Arc::new(before.clone()));
        }
        let over = before.phase.as_deref().and_then(Phase::parse).is_some_and(Phase::is_terminal);
        if self.ending_since.is_none() && (inputs.stop.is_some() || over || self.failure.is_some()) {
            self.ending_since = Some(inputs.now);
        }
        if self.ending_since.is_some() {
            self.step_ending(inputs, &mut output);
        } else {
            self.step_running(inputs, &mut output);
        }
        output.ending = self.ending_since.is_some();
        let mut status = self.status(inputs, output.ending);
        if self.torn_down && inputs.stop.is_some_and(|s| s.delete) {
            finalize(&mut status);
        }
        // Everybody who holds the status holds this one; one that says the same stays.
        let known = self.old.take().filter(|old| **old == status);
        output.status = known.unwrap_or_else(|| Arc::new(status));
        self.old = Some(Arc::clone(&output.status));
        for action in &output.actions {
            self.in_flight.insert(action.ticket());
        }
        output
    }

    fn status(&self, inputs: &Inputs<'_>, ending: bool) -> PodStatus {
        let old = self.old_status(inputs.pod);
        let status = StatusInputs {
            pod: inputs.pod,
            observed: inputs.observed,
            probes: inputs.probes,
            waiting: &self.waiting,
            given: &self.given,
            resizes: inputs.pending.into_iter().chain(&self.resize).collect(),
            old: &old,
            runtime: inputs.runtime,
            ending,
        };
        pod_status(&status, self.failure.as_ref(), inputs.host_ips, inputs.now)
    }

    fn step_rejected(&mut self, inputs: &Inputs<'_>, failure: &Failure) -> Output {
        let rejected = || Arc::new(rejected_status(inputs.pod, failure, inputs.now));
        let status = Arc::clone(self.old.get_or_insert_with(rejected));
        let finished = inputs.stop.is_some_and(|s| s.delete);
        Output { status, ending: true, finished, ..Output::default() }
    }

    fn note_deadline(&mut self, inputs: &Inputs<'_>, output: &mut Output) {
        let Some(secs) = spec::spec(inputs.pod).active_deadline_seconds else { return };
        let old = self.old_status(inputs.pod);
        let Some(start) = old.start_time.as_ref() else { return };
        let deadline = later(start.0, SignedDuration::from_secs(secs));
        if inputs.now < deadline {
            output.wake(deadline);
            return;
        }
        let over = old.phase.as_deref().and_then(Phase::parse).is_some_and(Phase::is_terminal);
        if self.failure.is_none() && !over && inputs.stop.is_none() {
            let message = "Pod was active on the node longer than the specified deadline".to_owned();
            output.notice(false, "DeadlineExceeded", message.clone(), None);
            self.failure = Some(Failure { reason: "DeadlineExceeded".into(), message });
        }
    }

    fn step_running(&mut self, inputs: &Inputs<'_>, output: &mut Output) {
        let plan = plan(inputs.pod, inputs.observed, inputs.probes);
        self.collect_dead(inputs, output);
        for kill in &plan.kill {
            let grace = kill.grace_secs.unwrap_or_else(|| spec::termination_grace_secs(inputs.pod));
            self.kill((&kill.id, &kill.name), grace, kill.message.clone(), inputs.now, output);
        }
        if plan.reset {
            self.step_reset(inputs, output);
            return;
        }
        self.step_resize(inputs, &plan, output);
        if plan.kill_pod && plan.create_sandbox.is_none() {
            // The phase turns terminal with the same observation; what still runs (sidecars, a failed
            // pod's rest) is stopped by the ending steps.
            self.ending_since = Some(inputs.now);
            self.step_ending(inputs, output);
            return;
        }
        if !self.volumes_ready {
            if !self.in_flight.contains(&Ticket::Volumes) && self.step_may_retry(inputs.now, output) {
                output.actions.push(Action::PrepareVolumes);
            }
            return;
        }
        match plan.create_sandbox {
            Some(attempt) => self.renew_sandbox(inputs, attempt, output),
            None => self.start_next(inputs, &plan, output),
        }
    }

    /// Clears away the old sandbox, then asks for the new one.
    fn renew_sandbox(&mut self, inputs: &Inputs<'_>, attempt: u32, output: &mut Output) {
        if self.in_flight.contains(&Ticket::Sandbox) {
            return;
        }
        let grace = spec::termination_grace_secs(inputs.pod);
        let mut busy = false;
        for container in inputs.observed.alive() {
            busy = true;
            let message = format!("Stopping container {}", container.name);
            self.kill((&container.id, &container.name), grace, message, inputs.now, output);
        }
        if busy {
            return;
        }
        for sandbox in inputs.observed.sandboxes.iter().filter(|s| s.ready) {
            busy = true;
            self.push(Action::StopSandbox { id: sandbox.id.clone() }, inputs.now, output);
        }
        // Finished init containers of the old sandbox would look like progress in the new one.
        let init: BTreeSet<&str> =
            spec::init_containers(inputs.pod).iter().map(|c| c.name.as_str()).collect();
        for container in inputs.observed.containers.iter().filter(|c| init.contains(c.name.as_str())) {
            busy = true;
            self.push(Action::RemoveContainer { id: container.id.clone() }, inputs.now, output);
        }
        if !busy && self.step_may_retry(inputs.now, output) {
            output.actions.push(Action::CreateSandbox { attempt });
        }
    }

    pub(super) fn step_may_retry(&self, now: Timestamp, output: &mut Output) -> bool {
        match self.step_backoff.retry_at {
            Some(at) if now < at => {
                output.wake(at);
                false
            }
            _ => true,
        }
    }

    fn start_next(&mut self, inputs: &Inputs<'_>, plan: &Plan, output: &mut Output) {
        let wanted: BTreeSet<&str> = plan.start.iter().map(|s| s.name.as_str()).collect();
        self.waiting.retain(|name, _| wanted.contains(name.as_str()));
        let starting = self.in_flight.iter().any(|t| matches!(t, Ticket::Start(_)));
        let killing: BTreeSet<String> = plan.kill.iter().map(|k| k.name.clone()).collect();
        let mut started = starting;
        for start in &plan.start {
            let latest = inputs.observed.latest(&start.name);
            if killing.contains(&start.name) || self.in_flight.contains(&Ticket::Start(start.name.clone())) {
                continue;
            }
            if self.must_wait(inputs, start, latest, output) || started {
                continue;
            }
            started = true;
            self.start(inputs, start, latest, output);
        }
    }

    fn start(&mut self, inputs: &Inputs<'_>, start: &Start, latest: Option<&Container>, output: &mut Output) {
        if let Some(finished) = latest.filter(|c| c.state == State::Exited).and_then(|c| c.finished_at) {
            self.crash.advance(&start.name, finished, inputs.now);
        }
        // The reason of the last failure stays visible while the next attempt runs.
        let known = latest.map(|c| c.restart_count + 1);
        let old = self.old_status(inputs.pod);
        let reported = old
            .container_statuses
            .iter()
            .chain(&old.init_container_statuses)
            .flatten()
            .find(|s| s.name == start.name)
            .map_or(0, |s| u32::try_from(s.restart_count).unwrap_or(0));
        self.note_start(inputs.pod, &start.name);
        output.actions.push(Action::StartContainer {
            name: start.name.clone(),
            kind: start.kind,
            restart_count: known.unwrap_or(reported).max(reported),
        });
    }

    /// True while back-off or a failed attempt keeps the container from starting; notes the reason it shows.
    fn must_wait(
        &mut self,
        inputs: &Inputs<'_>,
        start: &Start,
        latest: Option<&Container>,
        output: &mut Output,
    ) -> bool {
        if let Some(error) = self.start_errors.get(&start.name).cloned() {
            if inputs.now < error.retry_at {
                self.show_start_error(inputs, start, &error, output);
                output.wake(error.retry_at);
                return true;
            }
            self.waiting.insert(start.name.clone(), error.waiting);
        }
        let exited = latest.filter(|c| c.state == State::Exited);
        let Some(finished) = exited.and_then(|c| c.finished_at) else { return false };
        let Some((delay, until)) = self.crash.waiting(&start.name, finished, inputs.now) else {
            return false;
        };
        output.wake(until);
        let pod = spec::display(inputs.pod);
        let message =
            format!("back-off {} restarting failed container={} pod={pod}", go_duration(delay), start.name);
        let event = format!("Back-off restarting failed container {} in pod {pod}", start.name);
        self.notice_once(&start.name, until, true, "BackOff", event, output);
        self.waiting.insert(start.name.clone(), Waiting { reason: "CrashLoopBackOff".into(), message });
        true
    }

    fn show_start_error(
        &mut self,
        inputs: &Inputs<'_>,
        start: &Start,
        error: &StartError,
        output: &mut Output,
    ) {
        let settles = later(error.failed_at, PULL_ERROR_SHOWN);
        let shown = if error.image.is_none() || inputs.now < settles {
            if error.image.is_some() {
                output.wake(settles);
            }
            error.waiting.clone()
        } else {
            let image = spec::find_container(inputs.pod, &start.name).and_then(|(_, c)| c.image);
            let text = format!("Back-off pulling image \"{}\"", image.unwrap_or_default());
            self.notice_once(&start.name, error.retry_at, false, "BackOff", text.clone(), output);
            let message = format!("{text}: {}: {}", error.waiting.reason, error.waiting.message);
            Waiting { reason: "ImagePullBackOff".into(), message }
        };
        self.waiting.insert(start.name.clone(), shown);
    }

    fn notice_once(
        &mut self,
        name: &str,
        until: Timestamp,
        warning: bool,
        reason: &'static str,
        message: String,
        output: &mut Output,
    ) {
        if self.noticed.get(name) != Some(&until) {
            self.noticed.insert(name.to_owned(), until);
            output.notice(warning, reason, message, Some(name));
        }
    }

    pub(super) fn kill(
        &mut self,
        (id, name): (&str, &str),
        grace_secs: i64,
        message: String,
        now: Timestamp,
        output: &mut Output,
    ) {
        let shorter = self.kill_grace.get(id).is_none_or(|&g| grace_secs < g);
        let known = self.in_flight.contains(&Ticket::Kill(id.to_owned()));
        if known && !shorter || !known && !self.step_may_retry(now, output) {
            return;
        }
        self.kill_grace.insert(id.to_owned(), grace_secs);
        output.actions.push(Action::KillContainer {
            id: id.to_owned(),
            name: name.to_owned(),
            grace_secs,
            message,
        });
    }

    /// Asks for a step of the pod itself, unless it is under way or the last failure is too recent.
    pub(super) fn push(&self, action: Action, now: Timestamp, output: &mut Output) {
        let known = self.in_flight.contains(&action.ticket()) || output.actions.contains(&action);
        if !known && self.step_may_retry(now, output) {
            output.actions.push(action);
        }
    }

    /// Removes dead containers beyond those kept for their logs, and sandboxes that nothing refers to.
    fn collect_dead(&self, inputs: &Inputs<'_>, output: &mut Output) {
        let observed = inputs.observed;
        let mut dead: BTreeMap<&str, usize> = BTreeMap::new();
        for (index, container) in observed.containers.iter().enumerate() {
            let newest = observed.containers[..index].iter().all(|c| c.name != container.name);
            let gone = matches!(container.state, State::Exited | State::Created);
            if newest || !gone {
                continue;
            }
            let count = dead.entry(&container.name).or_default();
            *count += 1;
            if *count > DEAD_KEPT_PER_NAME {
                self.push(Action::RemoveContainer { id: container.id.clone() }, inputs.now, output);
            }
        }
        for sandbox in observed.sandboxes.iter().skip(1).filter(|s| !s.ready) {
            if observed.containers.iter().all(|c| c.sandbox_id != sandbox.id) {
                self.push(Action::RemoveSandbox { id: sandbox.id.clone() }, inputs.now, output);
            }
        }
    }
}

impl StepBackoff {
    fn fail(&mut self, now: Timestamp) {
        let factor = 1_i32 << self.failures.min(8);
        self.failures += 1;
        self.retry_at = Some(later(now, (STEP_RETRY.0 * factor).min(STEP_RETRY.1)));
    }
}

pub(super) fn later(from: Timestamp, by: SignedDuration) -> Timestamp {
    from.saturating_add(by).unwrap_or(Timestamp::MAX)
}
