//! Builds the programs of the images that air-gapped machines need. They are static, so that they run in images
//! that hold nothing else.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const PROGRAMS: &[&str] = &["pause", "web"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let target = env::var("TARGET")?;
    println!("cargo:rerun-if-changed=build.rs");
    for program in PROGRAMS {
        let source = Path::new("images").join(format!("{program}.rs"));
        println!("cargo:rerun-if-changed={}", source.display());
        let status = Command::new(env::var_os("RUSTC").ok_or("RUSTC is not set")?)
            .arg(&source)
            .args(["--edition", "2024", "--crate-type", "bin", "--target", &target])
            .args(["-C", "target-feature=+crt-static", "-C", "panic=abort", "-C", "opt-level=s"])
            .args(["-C", "strip=symbols", "-C", "lto=fat", "-C", "codegen-units=1", "-o"])
            .arg(out.join(program))
            .status()?;
        if !status.success() {
            return Err(
                format!("{program} could not be built ({status}); static linking needs libc.a").into()
            );
        }
    }
    Ok(())
}
