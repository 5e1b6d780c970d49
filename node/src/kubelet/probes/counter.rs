//! Turns single probe results into a standing verdict: so many successes or failures in a row change it.

/// Which probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Holds the others back until it succeeds once.
    Startup,
    /// Decides about traffic.
    Readiness,
    /// Decides about restart.
    Liveness,
}

impl Kind {
    /// The word in events.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Readiness => "Readiness",
            Kind::Liveness => "Liveness",
        }
    }
}

/// Results in a row.
#[derive(Clone, Debug)]
pub struct Counter {
    kind: Kind,
    success_threshold: u32,
    failure_threshold: u32,
    last: Option<bool>,
    run: u32,
    verdict: Option<bool>,
}

impl Counter {
    /// Starts without results. A readiness probe starts from "not ready", a liveness probe from "alive".
    pub fn new(kind: Kind, success_threshold: u32, failure_threshold: u32) -> Self {
        let verdict = match kind {
            Kind::Startup => None,
            Kind::Readiness => Some(false),
            Kind::Liveness => Some(true),
        };
        let thresholds = (success_threshold.max(1), failure_threshold.max(1));
        Self {
            kind,
            success_threshold: thresholds.0,
            failure_threshold: thresholds.1,
            last: None,
            run: 0,
            verdict,
        }
    }

    /// The standing verdict.
    pub fn verdict(&self) -> Option<bool> {
        self.verdict
    }

    /// Takes one result; the verdict after it.
    pub fn record(&mut self, success: bool) -> Option<bool> {
        self.run = if self.last == Some(success) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(success);
        let threshold = if success { self.success_threshold } else { self.failure_threshold };
        if self.run >= threshold {
            self.verdict = Some(success);
        }
        self.verdict
    }

    /// True if no further result can matter: a start-up probe has decided, a liveness probe has failed.
    pub fn is_settled(&self) -> bool {
        match self.kind {
            Kind::Startup => self.verdict.is_some(),
            Kind::Liveness => self.verdict == Some(false),
            Kind::Readiness => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Results as `+` and `-`, verdicts after each as `t`, `f` or `.`.
    fn check(kind: Kind, thresholds: (u32, u32), results: &str, expected: &str) {
        let mut counter = Counter::new(kind, thresholds.0, thresholds.1);
        let verdicts: String = results
            .chars()
            .map(|c| match counter.record(c == '+') {
                Some(true) => 't',
                Some(false) => 'f',
                None => '.',
            })
            .collect();
        assert_eq!(verdicts, expected, "{kind:?} {results}");
    }

    #[test]
    fn thresholds_in_a_row() {
        check(Kind::Readiness, (1, 3), "+--+---+", "ttttttft");
        check(Kind::Readiness, (2, 1), "+++-", "fttf");
        check(Kind::Liveness, (1, 2), "-+--", "tttf");
        check(Kind::Startup, (1, 3), "--+", "..t");
        check(Kind::Startup, (1, 2), "--", ".f");
    }
}
