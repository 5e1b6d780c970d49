//! The images built into this program: `pause`, which every pod's sandbox runs, and the example web server. They
//! are put together here and imported into the runtime, so that a machine without a registry works.

use std::io;
use std::path::Path;
use std::time::Duration;

use proto::cri;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::process::Command;

use crate::kubelet::cri::Runtime;
use crate::kubelet::cri::client::{socket_path, timed};
use crate::kubelet::node::facts::go_arch;

/// The sandbox's image.
pub const PAUSE: &str = "registry.quarterdeck.local/pause:v1";
/// The example image.
pub const WEB: &str = "registry.quarterdeck.local/web:v1";

/// Where only images of this program come from.
const REGISTRY: &str = "registry.quarterdeck.local/";

/// True for the name of an image that is built in here: nothing but this program could bring it back.
pub fn is_own(name: &str) -> bool {
    name.starts_with(REGISTRY)
}

const PAUSE_PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));
const WEB_PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/web"));
/// Size of a tar record.
const BLOCK: usize = 512;
/// How long an import may take.
const IMPORT_LIMIT: Duration = Duration::from_secs(60);

/// The images cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The runtime does not answer.
    #[error(transparent)]
    Runtime(#[from] crate::kubelet::cri::CriError),
    /// The archive cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// Where.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// containerd's own tool refused or is missing.
    #[error("cannot import {image}: {text}")]
    Import {
        /// Which.
        image: &'static str,
        /// Why.
        text: String,
    },
}

/// One file as a tar record.
fn tar_entry(out: &mut Vec<u8>, name: &str, mode: u32, data: &[u8]) {
    let mut header = [0_u8; BLOCK];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, &format!("{mode:07o}"));
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{:011o}", data.len()));
    put(136, "00000000000");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\u{0}00");
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(BLOCK), 0);
}

fn tar(files: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, mode, data) in files {
        tar_entry(&mut out, name, *mode, data);
    }
    out.resize(out.len() + 2 * BLOCK, 0);
    out
}

/// An image with one program in it, as an archive that `docker load` and containerd take.
pub fn archive(reference: &str, program: &str, binary: &[u8]) -> Vec<u8> {
    let layer = tar(&[(program, 0o755, binary)]);
    let digest = |bytes: &[u8]| hex::encode(Sha256::digest(bytes));
    let layer_digest = digest(&layer);
    let config = json!({
        "architecture": go_arch(),
        "os": "linux",
        "config": {"Entrypoint": [format!("/{program}")], "Env": ["PATH=/"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_digest}")]},
    })
    .to_string();
    let config_name = format!("{}.json", digest(config.as_bytes()));
    let layer_name = format!("{}/layer.tar", &layer_digest[..32]);
    let manifest =
        json!([{"Config": config_name, "RepoTags": [reference], "Layers": [layer_name]}]).to_string();
    tar(&[
        (&config_name, 0o644, config.as_bytes()),
        (&layer_name, 0o644, &layer),
        ("manifest.json", 0o644, manifest.as_bytes()),
    ])
}

/// Imports every bundled image that the runtime at `endpoint` does not have as it is here. `dir` is a folder of the
/// agent's own, where it notes what it has imported.
pub async fn import_all(endpoint: &str, dir: &Path) -> Result<(), ImportError> {
    let endpoint = socket_path(endpoint);
    let runtime = Runtime::connect(endpoint).await?;
    for (image, program, binary) in [(PAUSE, "pause", PAUSE_PROGRAM), (WEB, "web", WEB_PROGRAM)] {
        let archive = archive(image, program, binary);
        let mark = dir.join(format!("{program}.imported"));
        let digest = hex::encode(Sha256::digest(&archive));
        let current = std::fs::read_to_string(&mark).is_ok_and(|d| d == digest);
        if current && is_there(&runtime, image).await {
            continue;
        }
        import(endpoint, dir, image, program, &archive).await?;
        let write = |source| ImportError::Write { path: mark.display().to_string(), source };
        std::fs::write(&mark, digest).map_err(write)?;
    }
    Ok(())
}

async fn is_there(runtime: &Runtime, image: &str) -> bool {
    let spec = cri::ImageSpec { image: image.to_owned(), ..Default::default() };
    let request = timed(cri::ImageStatusRequest { image: Some(spec), verbose: false }, IMPORT_LIMIT);
    runtime.images().image_status(request).await.is_ok_and(|a| a.into_inner().image.is_some())
}

async fn import(
    endpoint: &str,
    dir: &Path,
    image: &'static str,
    program: &str,
    archive: &[u8],
) -> Result<(), ImportError> {
    let file = dir.join(format!("{program}.tar"));
    let written = std::fs::create_dir_all(dir).and_then(|()| std::fs::write(&file, archive));
    written.map_err(|source| ImportError::Write { path: file.display().to_string(), source })?;
    let run = Command::new("ctr")
        .args(["--address", endpoint, "--namespace", "k8s.io", "images", "import"])
        .arg(&file)
        .output();
    let output = tokio::time::timeout(IMPORT_LIMIT, run).await;
    let _ = std::fs::remove_file(&file);
    let failed = |text: String| ImportError::Import { image, text };
    let output = output
        .map_err(|_| failed(format!("no end after {IMPORT_LIMIT:?}")))?
        .map_err(|e| failed(format!("ctr: {e}")))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    pin(endpoint, image).await;
    Ok(())
}

/// Tells the runtime that the image stays; those too old to know the label leave it to the agent's own rule.
async fn pin(endpoint: &str, image: &str) {
    let run = Command::new("ctr")
        .args(["--address", endpoint, "--namespace", "k8s.io", "images", "label", image])
        .arg("io.cri-containerd.pinned=pinned")
        .output();
    if let Ok(Err(error)) = tokio::time::timeout(IMPORT_LIMIT, run).await {
        tracing::warn!(%error, image, "cannot pin an image");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_one_that_tar_reads() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("i.tar");
        std::fs::write(&file, archive("r/p:v1", "pause", b"program")).expect("written");
        let listed = std::process::Command::new("tar").arg("-tf").arg(&file).output().expect("tar");
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        let names = String::from_utf8_lossy(&listed.stdout);
        assert!(names.contains("manifest.json") && names.contains("layer.tar"), "{names}");
    }

    #[test]
    fn the_programs_are_static() {
        for program in [PAUSE_PROGRAM, WEB_PROGRAM] {
            assert!(program.starts_with(b"\x7fELF"));
            // A dynamic program names its loader.
            let loader = b"/lib64/ld-linux";
            assert!(!program.windows(loader.len()).any(|w| w == loader));
        }
    }
}
