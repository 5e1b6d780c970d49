//! What the person at the terminal sees: a line a step, with the time it took, and a summary.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Instant;

/// Steps done so far.
pub struct Progress {
    started: Instant,
    last: Instant,
    terminal: bool,
}

impl Progress {
    pub fn start() -> Self {
        let now = Instant::now();
        Progress { started: now, last: now, terminal: std::io::stdout().is_terminal() }
    }

    /// A remark that is not a step.
    pub fn note(&mut self, text: &str) {
        println!("         {text}");
    }

    /// What is being waited for; on a terminal only, where the next step takes its place.
    pub fn begin(&mut self, text: &str) {
        if self.terminal {
            print!("\r\x1b[K         {text} …");
            // A terminal that cannot be written shows it at the next line.
            let _ = std::io::stdout().flush();
        }
    }

    /// A step that has just finished, with the time since the one before.
    pub fn step(&mut self, text: &str) {
        let now = Instant::now();
        let clear = if self.terminal { "\r\x1b[K" } else { "" };
        println!("{clear}{:6.2} s {text}", now.duration_since(self.last).as_secs_f64());
        self.last = now;
    }

    /// Everything is up.
    pub fn summary(&self, kubeconfig: &Path, children: &[(String, u32)]) {
        println!("{:6.2} s in all. Look around:", self.started.elapsed().as_secs_f64());
        println!("\n    export KUBECONFIG={}", kubeconfig.display());
        println!("    kubectl get nodes,pods --all-namespaces -o wide");
        if let Some((name, pid)) = children.first() {
            println!(
                "    kill -9 {pid}   # {name}; look again: the others serve, and it comes back after a few seconds"
            );
        }
        println!(
            "\nCtrl-C ends the cluster; the next run goes on with its data (`make clean-run` removes it)."
        );
    }
}
