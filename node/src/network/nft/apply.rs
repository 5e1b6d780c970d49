//! Runs scripts with the `nft` program, each as one kernel transaction.

use std::{io, path::PathBuf, process::Stdio};

use tokio::{io::AsyncWriteExt, process::Command};

/// Why a script was not applied. The kernel then holds exactly what it held before.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The program could not run. Install nftables, or give its path.
    #[error("cannot run {program}: {source}; is nftables installed?")]
    Spawn {
        /// What was run.
        program: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The program refused the script. Writing the whole table afresh may help.
    #[error("nft refused the transaction: {0}")]
    Refused(String),
}

/// How much of nft's complaint is kept: the first lines name the cause, the rest repeats the script.
const COMPLAINT_BYTES_MAX: usize = 2_000;

/// The `nft` program, run in the network namespace of the calling thread.
#[derive(Clone, Debug)]
pub struct Nft {
    program: PathBuf,
}

impl Default for Nft {
    fn default() -> Self {
        Self { program: PathBuf::from("nft") }
    }
}

impl Nft {
    /// Another path to the program.
    pub fn at(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into() }
    }

    /// Applies a script; all of it or nothing.
    pub async fn apply(&self, script: &str) -> Result<(), ApplyError> {
        self.run(&["-f", "-"], script).await.map(|_| ())
    }

    /// True when the table (family and name) exists, elements left aside.
    pub async fn has_table(&self, table: &str) -> Result<bool, ApplyError> {
        let text = self.run(&["list", "tables"], "").await?;
        Ok(text.lines().any(|line| line.strip_prefix("table ") == Some(table)))
    }

    /// One `list` command's JSON output.
    pub async fn list_json(&self, what: &[&str]) -> Result<String, ApplyError> {
        let mut args = vec!["-j", "list"];
        args.extend_from_slice(what);
        self.run(&args, "").await
    }

    async fn run(&self, args: &[&str], input: &str) -> Result<String, ApplyError> {
        let failed = |source| ApplyError::Spawn { program: self.program.display().to_string(), source };
        let mut child = Command::new(&self.program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let stdin = child.stdin.take();
        let feed = async move {
            if let Some(mut stdin) = stdin {
                // An early exit closes the pipe; its complaint on stderr says more than the broken pipe.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
        };
        let (_, output) = tokio::join!(feed, child.wait_with_output());
        let output = output.map_err(failed)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let mut complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        if complaint.len() > COMPLAINT_BYTES_MAX {
            let mut end = COMPLAINT_BYTES_MAX;
            while !complaint.is_char_boundary(end) {
                end -= 1;
            }
            complaint.truncate(end);
        }
        Err(ApplyError::Refused(complaint))
    }
}
