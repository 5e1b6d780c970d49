//! What a person reads when a command cannot go on: one sentence saying what is wrong, one saying how to mend it.

use std::fmt;
use std::process::ExitCode;

/// The exit status of a server that is no longer a member: starting it again is of no use, and a supervisor is told so
/// (`RestartPreventExitStatus=` in the systemd unit).
pub const REMOVED_STATUS: u8 = 3;
const FAILED_STATUS: u8 = 1;

/// A command's failure. Printed once, at the top; never logged on the way.
#[derive(Debug)]
pub struct Failure {
    problem: String,
    mend: Option<String>,
    status: u8,
}

pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub fn new(problem: impl Into<String>) -> Self {
        Failure { problem: problem.into(), mend: None, status: FAILED_STATUS }
    }

    /// The process ends with this status instead of 1.
    pub fn status(mut self, status: u8) -> Self {
        self.status = status;
        self
    }

    /// Adds what the reader can do about it.
    pub fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(mend.into());
        self
    }

    /// The problem, and the mend where there is one.
    pub fn into_parts(self) -> (String, Option<String>) {
        (self.problem, self.mend)
    }

    /// Prints the failure on standard error.
    pub fn report(&self) -> ExitCode {
        eprintln!("quarterdeck: {self}");
        ExitCode::from(self.status)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)?;
        match &self.mend {
            Some(mend) => write!(f, "\n  mend: {mend}"),
            None => Ok(()),
        }
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut problem = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            if !problem.contains(&text) {
                problem.push_str(": ");
                problem.push_str(&text);
            }
            source = cause.source();
        }
        Failure::new(problem)
    }
}

/// Turns a role's boxed error into a [`Failure`] that names the role.
pub fn role(name: &str, error: Box<dyn std::error::Error + Send + Sync>) -> Failure {
    Failure::new(format!("{name}: {error}"))
}

/// Says which file an IO error is about.
pub trait At<T> {
    fn at(self, doing: &str, path: &std::path::Path) -> Result<T>;
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, doing: &str, path: &std::path::Path) -> Result<T> {
        self.map_err(|error| Failure::new(format!("cannot {doing} {}: {error}", path.display())))
    }
}
