//! What running pods needs of the kernel and of installed programs, each tried where nothing is left behind.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sched::CloneFlags;

use crate::failure::{Failure, Result};

/// Programs, and the Debian package that has each.
const PROGRAMS: &[(&str, &str)] = &[("nft", "nftables"), ("ip", "iproute2")];
/// Where the agent starts a runtime of its own, these too.
const RUNTIME_PROGRAMS: &[(&str, &str)] = &[("containerd", "containerd"), ("runc", "runc")];
const NAMESPACES: &[&str] = &["net", "mnt", "pid", "ipc", "uts"];
const CGROUPS: &str = "/sys/fs/cgroup";
/// Pods' limits and statistics come from these.
const CONTROLLERS: &[&str] = &["cpu", "memory", "pids"];
/// What services, masquerading and policies are made of.
const RULES: &str = "\
table ip quarterdeck-probe {
  map services { type inet_proto . ipv4_addr . inet_service : verdict; }
  chain nat { type nat hook prerouting priority dstnat; meta l4proto . ip daddr . th dport vmap @services; }
  chain one { dnat to numgen random mod 2 map { 0 : 192.0.2.1, 1 : 192.0.2.2 }; }
  chain post { type nat hook postrouting priority srcnat; meta mark and 0x4000 == 0x4000 masquerade; }
  chain filter { type filter hook forward priority filter; ct state established accept; }
}
";

/// Every reason why this machine cannot run pods, or nothing.
pub fn lacks(own_runtime: bool) -> Vec<String> {
    if !nix::unistd::geteuid().is_root() {
        return vec!["this user is not root".to_owned()];
    }
    let wanted = PROGRAMS.iter().chain(if own_runtime { RUNTIME_PROGRAMS } else { &[] });
    let mut lacks: Vec<String> = wanted
        .filter(|(program, _)| !on_path(program))
        .map(|(program, package)| format!("`{program}` is not installed (Debian's package {package})"))
        .collect();
    if !lacks.is_empty() {
        return lacks;
    }
    lacks.extend(
        NAMESPACES
            .iter()
            .filter(|name| !Path::new("/proc/self/ns").join(name).exists())
            .map(|name| format!("the kernel has no {name} namespaces")),
    );
    lacks.extend(missing_controllers(Path::new(CGROUPS)));
    lacks.extend(probe(
        "virtual links (veth)",
        "ip",
        &["link", "add", "probe0", "type", "veth", "peer", "name", "probe1"],
        "",
    ));
    lacks.extend(probe("bridges", "ip", &["link", "add", "probe0", "type", "bridge"], ""));
    lacks.extend(probe("nftables with NAT, masquerading, maps and conntrack", "nft", &["-f", "-"], RULES));
    lacks
}

/// Refuses with all that is missing in one sentence.
pub fn can_run_pods(own_runtime: bool) -> Result<()> {
    let lacks = lacks(own_runtime);
    if lacks.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("this machine cannot run pods: {}", lacks.join("; "))).mend(
        "run `make setup` as root for programs, load or enable the kernel's parts, or use --hollow-nodes where no \
         container need run",
    ))
}

/// cgroup v2 lists its controllers in a file; v1 has a folder for each.
fn missing_controllers(root: &Path) -> Option<String> {
    let has: Box<dyn Fn(&str) -> bool> = match std::fs::read_to_string(root.join("cgroup.controllers")) {
        Ok(text) => {
            let there: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
            Box::new(move |name| there.iter().any(|found| found == name))
        }
        Err(_) => Box::new(|name| root.join(name).exists()),
    };
    let missing: Vec<&str> = CONTROLLERS.iter().copied().filter(|name| !has(name)).collect();
    let at = root.display();
    (!missing.is_empty()).then(|| {
        format!(
            "control groups at {at} lack {} (mount cgroup2 there, or have them delegated)",
            missing.join(", ")
        )
    })
}

/// Runs a program in a network namespace of its own, which ends with it.
fn probe(what: &str, program: &str, args: &[&str], input: &str) -> Option<String> {
    let problem = |why: String| Some(format!("the kernel lacks {what}: {}", why.trim()));
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.env("PATH", search_path());
    // SAFETY: unshare is one system call, and nothing else runs between fork and exec.
    unsafe {
        use std::os::unix::process::CommandExt;
        command.pre_exec(|| Ok(nix::sched::unshare(CloneFlags::CLONE_NEWNET)?));
    }
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return problem(error.to_string()),
    };
    // A program that ends before it has read everything says why in its own words.
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
    match child.wait_with_output() {
        Ok(output) if output.status.success() && written.is_ok() => None,
        Ok(output) => {
            problem(String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or("it failed").to_owned())
        }
        Err(error) => problem(error.to_string()),
    }
}

/// A user's path often lacks the folders of administration.
fn search_path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

fn on_path(program: &str) -> bool {
    search_path().split(':').any(|folder| Path::new(folder).join(program).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_looked_for_in_both_versions() {
        let dir = tempfile::tempdir().expect("a folder");
        let text = missing_controllers(dir.path()).expect("nothing there");
        assert!(text.contains("cpu, memory, pids"), "{text}");
        std::fs::write(dir.path().join("cgroup.controllers"), "cpuset cpu io memory pids").expect("written");
        assert_eq!(missing_controllers(dir.path()), None);
        std::fs::write(dir.path().join("cgroup.controllers"), "cpu pids").expect("written");
        assert!(missing_controllers(dir.path()).expect("no memory").contains("lack memory"));
        std::fs::remove_file(dir.path().join("cgroup.controllers")).expect("removed");
        for name in CONTROLLERS {
            std::fs::create_dir(dir.path().join(name)).expect("a folder");
        }
        assert_eq!(missing_controllers(dir.path()), None);
    }
}
