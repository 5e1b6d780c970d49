//! What can be known to fail is said before anything is made: ports, memory, disk, clock.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use crate::failure::{At, Failure, Result};

/// Less memory than this and the servers would be killed under load; in MiB.
const MEMORY_MIN_MIB: u64 = 512;
/// Less room than this and the store would soon raise its NOSPACE alarm; in MiB.
const DISK_MIN_MIB: u64 = 512;

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
                _ => problem,
            }
        })?;
    }
    Ok(())
}

/// The machine is large enough, and the data directory can be written.
pub fn machine_is_fit(data_dir: &Path) -> Result<()> {
    let memory =
        total_memory_mib(&std::fs::read_to_string("/proc/meminfo").at("read", Path::new("/proc/meminfo"))?);
    if memory.is_some_and(|mib| mib < MEMORY_MIN_MIB) {
        return Err(Failure::new(format!("this machine has less than {MEMORY_MIN_MIB} MiB of memory"))
            .mend("use a larger machine"));
    }
    std::fs::create_dir_all(data_dir).at("create the data directory", data_dir)?;
    let stats = nix::sys::statvfs::statvfs(data_dir).map_err(|error| {
        Failure::new(format!("cannot look at the disk of {}: {error}", data_dir.display()))
    })?;
    let free = stats.blocks_available() * stats.fragment_size() / (1 << 20);
    if free < DISK_MIN_MIB {
        return Err(Failure::new(format!("{} has only {free} MiB of room", data_dir.display()))
            .mend(format!("free at least {DISK_MIN_MIB} MiB, or choose another --data-dir")));
    }
    Ok(())
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
        assert_eq!(total_memory_mib("MemTotal:        2048 kB\n"), Some(2));
    }
}
