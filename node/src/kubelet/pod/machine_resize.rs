//! The part of a pod's life in which its resources change while it runs.

use jiff::SignedDuration;

use super::action::{Action, Inputs, Outcome, Output, Ticket};
use super::machine::{Machine, later};
use super::plan::Plan;
use super::resize::{self, Resize, Standing};
use super::spec;

/// Room for deferred resources is looked for again after this, if nothing else happens before.
const RETRY: SignedDuration = SignedDuration::from_secs(10);

impl Machine {
    /// Begins what changed resources need, if there is room for them.
    pub(super) fn step_resize(&mut self, inputs: &Inputs<'_>, plan: &Plan, output: &mut Output) {
        let changes = resize::plan(&self.given, inputs.pod, inputs.observed);
        if changes.is_empty() {
            self.resize = None;
            return;
        }
        let under_way = self.in_flight.iter().any(|t| matches!(t, Ticket::Resize(_)));
        if !under_way && let Some(pending) = (inputs.judge)(inputs.pod).pending() {
            self.resize = Some(pending);
            output.wake(later(inputs.now, RETRY));
            return;
        }
        let error = match self.resize.take() {
            Some(Standing::InProgress(error)) => error,
            _ => None,
        };
        self.resize = Some(Standing::InProgress(error));
        for change in changes {
            self.begin_resize(inputs, plan, change, output);
        }
    }

    fn begin_resize(&mut self, inputs: &Inputs<'_>, plan: &Plan, change: Resize, output: &mut Output) {
        match change {
            Resize::Restart { id, name } => {
                let grace = spec::termination_grace_secs(inputs.pod);
                let message = format!("Container {name} resize requires restart, will be restarted");
                self.kill((&id, &name), grace, message, inputs.now, output);
            }
            Resize::InPlace { id, .. } if plan.kill.iter().any(|k| k.id == id) => {}
            Resize::InPlace { id, name } => {
                let under_way = self.in_flight.contains(&Ticket::Resize(id.clone()));
                if under_way || !self.step_may_retry(inputs.now, output) {
                    return;
                }
                if let Some((_, container)) = spec::find_container(inputs.pod, &name) {
                    self.resizing.insert(id.clone(), container.resources.unwrap_or_default());
                    output.actions.push(Action::ResizeContainer { id, name });
                }
            }
        }
    }

    /// Takes the end of one container's resize.
    pub(super) fn resized(&mut self, id: &str, outcome: Outcome) {
        match outcome {
            Outcome::Done => {
                self.given.extend(self.resizing.remove_entry(id));
            }
            Outcome::Failed(waiting) | Outcome::PullFailed(waiting) => {
                self.resize = Some(Standing::InProgress(Some(waiting.message)));
            }
        }
    }
}
