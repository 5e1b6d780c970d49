//! What the person at the terminal sees: a line a step, with the time it took, and a summary.

use std::path::Path;
use std::time::Instant;

/// Steps done so far.
pub struct Progress {
    started: Instant,
    last: Instant,
}

impl Progress {
    pub fn start() -> Self {
        let now = Instant::now();
        Progress { started: now, last: now }
    }

    /// A remark that is not a step.
    pub fn note(&mut self, text: &str) {
        println!("         {text}");
    }

    /// A step that has just finished, with the time since the one before.
    pub fn step(&mut self, text: &str) {
        let now = Instant::now();
        println!("{:6.2} s {text}", now.duration_since(self.last).as_secs_f64());
        self.last = now;
    }

    /// Everything is up.
    pub fn summary(&self, kubeconfig: &Path, children: &[(String, u32)]) {
        println!("{:6.2} s in all. Look around:", self.started.elapsed().as_secs_f64());
        println!("\n    export KUBECONFIG={}", kubeconfig.display());
        println!("    kubectl get nodes,pods --all-namespaces");
        if let Some((name, pid)) = children.first() {
            println!("    kill -9 {pid}   # {name}; look again, it comes back after a few seconds");
        }
        println!("\nCtrl-C ends the cluster; the next `make run` goes on with its data.");
    }
}
