//! The last part of a pod's life: containers are killed in order, then sandboxes are stopped, then volumes are
//! torn down, and for a deleted pod everything is removed from the runtime.

use super::action::{Action, Inputs, Output, Ticket};
use super::machine::Machine;
use super::spec;
use super::terminate::next_kills;

impl Machine {
    pub(super) fn step_ending(&mut self, inputs: &Inputs<'_>, output: &mut Output) {
        let since = self.ending_since.unwrap_or(inputs.now);
        self.waiting.clear();
        let grace = inputs.stop.map_or_else(|| spec::termination_grace_secs(inputs.pod), |s| s.grace_secs);
        // A start or sandbox under way ends first: what it made is found by the next observation.
        let starting =
            self.in_flight.iter().any(|t| matches!(t, Ticket::Start(_) | Ticket::Sandbox | Ticket::Volumes));
        let kills = next_kills(inputs.pod, inputs.observed, since, grace, inputs.now);
        for kill in &kills {
            // The budget shrinks with every step; only a changed request kills anew.
            let asked = self.kill_grace.get(&kill.id).copied();
            let again = asked.is_some_and(|g| grace < g);
            if asked.is_none() || again {
                let message = format!("Stopping container {}", kill.name);
                self.kill((&kill.id, &kill.name), kill.grace_secs, message, inputs.now, output);
            }
        }
        if !kills.is_empty() || starting {
            return;
        }
        let ready: Vec<_> = inputs.observed.sandboxes.iter().filter(|s| s.ready).collect();
        for sandbox in &ready {
            self.push(Action::StopSandbox { id: sandbox.id.clone() }, inputs.now, output);
        }
        if !ready.is_empty() {
            return;
        }
        if !self.torn_down {
            self.push(Action::Teardown, inputs.now, output);
            return;
        }
        if inputs.stop.is_some_and(|s| s.delete) {
            self.step_removal(inputs, output);
        }
    }

    fn step_removal(&mut self, inputs: &Inputs<'_>, output: &mut Output) {
        if !self.step_may_retry(inputs.now, output) {
            return;
        }
        for container in &inputs.observed.containers {
            self.push(Action::RemoveContainer { id: container.id.clone() }, inputs.now, output);
        }
        if !inputs.observed.containers.is_empty() {
            return;
        }
        for sandbox in &inputs.observed.sandboxes {
            self.push(Action::RemoveSandbox { id: sandbox.id.clone() }, inputs.now, output);
        }
        output.finished = inputs.observed.sandboxes.is_empty() && self.in_flight.is_empty();
    }
}
