//! Size of the machine, room on the disk, free ports.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use crate::failure::{At, Failure, Result};

/// Less memory than this and a server would be killed under load; in MiB.
pub const SERVER_MEMORY_MIN_MIB: u64 = 512;
/// An agent with its runtime and one small pod; in MiB.
pub const AGENT_MEMORY_MIN_MIB: u64 = 256;
/// Three servers, an agent and the examples on one machine; in MiB.
pub const UP_MEMORY_MIN_MIB: u64 = 1024;
/// Less room than this and the store would soon raise its NOSPACE alarm; in MiB.
const DISK_MIN_MIB: u64 = 512;
/// The store's files, a connection for each agent and client.
const OPEN_FILES_MIN: u64 = 1024;

/// Each listener's name and address.
pub fn ports_are_free(listeners: &[(&str, SocketAddr)]) -> Result<()> {
    for (name, address) in listeners {
        TcpListener::bind(address).map_err(|error| {
            let problem =
                Failure::new(format!("the {name} address {address} cannot be listened on: {error}"));
            match error.kind() {
                std::io::ErrorKind::AddrInUse => problem.mend(format!(
                    "stop what listens there (`ss -ltnp sport = :{}` names it), or choose another port",
                    address.port()
                )),
                std::io::ErrorKind::AddrNotAvailable => {
                    problem.mend("give an address of this machine with --bind-address")
                }
                std::io::ErrorKind::PermissionDenied => problem.mend("choose a port above 1023, or be root"),
                _ => problem,
            }
        })?;
    }
    Ok(())
}

/// The machine is large enough, and there is room where `data_dir` is or will be.
pub fn is_fit(data_dir: &Path, memory_min_mib: u64) -> Result<()> {
    let memory = memory_mib()?;
    if memory < memory_min_mib {
        return Err(Failure::new(format!(
            "there are {memory} MiB of memory here, and at least {memory_min_mib} are needed"
        ))
        .mend("use a larger machine, or raise this process's limit (cgroup memory.max)"));
    }
    let there = data_dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let there = if there.as_os_str().is_empty() { Path::new(".") } else { there };
    let stats = nix::sys::statvfs::statvfs(there)
        .map_err(|error| Failure::new(format!("cannot look at the disk of {}: {error}", there.display())))?;
    let free = stats.blocks_available() * stats.fragment_size() / (1 << 20);
    if free < DISK_MIN_MIB {
        return Err(Failure::new(format!("the disk of {} has only {free} MiB of room", data_dir.display()))
            .mend(format!("free at least {DISK_MIN_MIB} MiB, or choose another --data-dir")));
    }
    nix::unistd::access(there, nix::unistd::AccessFlags::W_OK).map_err(|error| {
        Failure::new(format!("{} cannot be written: {error}", there.display()))
            .mend("be root, or choose another --data-dir")
    })?;
    raise_open_files()
}

/// Takes all the open files this user may have: a shell's usual soft limit is meant for programs that use `select`.
fn raise_open_files() -> Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if hard < OPEN_FILES_MIN {
        return Err(Failure::new(format!(
            "this process may open {hard} files, and at least {OPEN_FILES_MIN} are needed"
        ))
        .mend("raise the limit (`ulimit -Hn`, or LimitNOFILE= of the systemd unit)"));
    }
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(())
}

/// What this process may use: the machine's memory, or less where a control group says so.
fn memory_mib() -> Result<u64> {
    let read = |path: &Path| std::fs::read_to_string(path);
    let meminfo = Path::new("/proc/meminfo");
    let machine = total_memory_mib(&read(meminfo).at("read", meminfo)?).unwrap_or(u64::MAX);
    // Where the files are not in sight there is no limit to be seen.
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let limits = limit_files(&groups).into_iter().filter_map(|file| {
        let text = read(&Path::new("/sys/fs/cgroup").join(file)).ok()?;
        text.trim().parse::<u64>().ok().map(|bytes| bytes >> 20)
    });
    Ok(limits.fold(machine, u64::min))
}

/// The files with the memory limits of a process and of the groups around it, below the control groups' mount.
fn limit_files(groups: &str) -> Vec<PathBuf> {
    let own = groups.lines().find_map(|line| match line.split_once(':')?.1.split_once(':')? {
        ("", path) => Some((path, "", "memory.max")),
        ("memory", path) => Some((path, "memory", "memory.limit_in_bytes")),
        _ => None,
    });
    let Some((path, mount, file)) = own else { return Vec::new() };
    let below = |folder: &Path| Path::new(mount).join(folder.strip_prefix("/").unwrap_or(folder)).join(file);
    Path::new(path).ancestors().map(below).collect()
}

fn total_memory_mib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_its_mend() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = taken.local_addr().expect("an address");
        let text = ports_are_free(&[("API", address)]).expect_err("taken").to_string();
        assert!(text.contains("API") && text.contains("mend:"), "{text}");
        drop(taken);
        assert!(ports_are_free(&[("API", address)]).is_ok());
    }

    #[test]
    fn a_machine_that_is_too_small_is_refused_and_nothing_is_made() {
        assert_eq!(total_memory_mib("MemTotal:        2048 kB\n"), Some(2));
        let files =
            |groups| limit_files(groups).iter().map(|file| file.display().to_string()).collect::<Vec<_>>();
        assert_eq!(files("0::/a/b\n"), ["a/b/memory.max", "a/memory.max", "memory.max"]);
        let first = "memory/x/memory.limit_in_bytes";
        assert_eq!(files("9:cpu:/y\n4:memory:/x\n0::/\n"), [first, "memory/memory.limit_in_bytes"]);
        let dir = tempfile::tempdir().expect("a folder");
        let data_dir = dir.path().join("a/b");
        assert!(is_fit(&data_dir, 1).is_ok());
        let text = is_fit(&data_dir, u64::MAX).expect_err("too small").to_string();
        assert!(text.contains("MiB of memory") && text.contains("larger machine"), "{text}");
        assert!(!dir.path().join("a").exists());
    }
}
