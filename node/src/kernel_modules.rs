//! Modules of the kernel that nothing loads by itself: distributions' kernels have them beside the kernel, not in it.

use std::path::Path;
use std::process::{Command, Stdio};

/// Loads a module, unless `shows` exists, by which it is known to be there. Where that fails (no such module, no rights, no
/// `modprobe`), whoever needs it finds out and says what for.
pub(crate) fn load(module: &str, shows: &Path) {
    if shows.exists() {
        return;
    }
    let mut command = Command::new("modprobe");
    command.arg(module).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.status() {
        Ok(status) if status.success() => tracing::info!(module, "loaded a module of the kernel"),
        Ok(status) => tracing::debug!(module, %status, "modprobe"),
        Err(error) => tracing::debug!(module, %error, "modprobe"),
    }
}
