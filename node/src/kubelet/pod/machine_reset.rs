//! Restarting every container of a pod in place, because one has ended in a way that its rules take for the end of all.

use super::action::{Action, Inputs, Output, Ticket};
use super::machine::Machine;
use super::restart::wants_all;
use super::spec::{self, Kind};

/// Seconds that containers get which must go because of another one's end, as upstream has it.
const GRACE_SECS: i64 = 0;

impl Machine {
    /// Ends what still runs, then removes every container but the ephemeral ones. Those that asked for it go last: as
    /// long as one is there, this goes on, whoever is asked.
    pub(super) fn step_reset(&mut self, inputs: &Inputs<'_>, output: &mut Output) {
        self.waiting.clear();
        // What is being started is found by the next observation.
        if self.in_flight.iter().any(|ticket| matches!(ticket, Ticket::Start(_))) {
            return;
        }
        let is_part = |name: &str| {
            spec::find_container(inputs.pod, name).is_some_and(|(kind, _)| kind != Kind::Ephemeral)
        };
        let part = || inputs.observed.containers.iter().filter(|c| is_part(&c.name));
        let alive: Vec<_> = inputs.observed.alive().filter(|c| is_part(&c.name)).collect();
        for container in &alive {
            let message = format!("Stopping container {}", container.name);
            self.kill((&container.id, &container.name), GRACE_SECS, message, inputs.now, output);
        }
        if !alive.is_empty() {
            return;
        }
        let all_ask = part().all(|c| wants_all(inputs.pod, c));
        for container in part().filter(|c| all_ask || !wants_all(inputs.pod, c)) {
            self.push(Action::RemoveContainer { id: container.id.clone() }, inputs.now, output);
        }
    }
}
