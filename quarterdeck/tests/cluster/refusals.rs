//! Bad input and bad days at the command line: one sentence, the mend, a non-zero status, nothing half-created.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use super::beside_others;
use super::common::{READY, Server, run, run_with, skip};

fn check(args: &[&str], problem: &str, mend: &str) {
    run(args).refused(problem).refused(mend);
}

#[test]
fn servers_refuse_what_cannot_work() {
    let root = tempfile::tempdir().expect("a folder");
    let dir = root.path().join("s");
    let data_dir = format!("--data-dir={}", dir.display());
    let base = ["server", "--name=a", "--bind-address=127.77.9.1", data_dir.as_str()];
    let with = |more: &[&'static str]| [base.as_slice(), more].concat();

    check(&with(&[]), "no server lives in", "--init");
    check(&with(&["--token=K10::x"]), "the join token does not start", "quarterdeck token create");
    check(&with(&["--token=qd1.agent.e30"]), "the join token is cut", "copy it whole");
    check(&with(&["--service-cidr=10.0.0.0/31", "--init"]), "too few addresses", "/24");
    check(&with(&["--certificate-lifetime=1s", "--init"]), "ten years", "--help");
    check(&["server", "--no-such-flag"], "unexpected argument", "--help");
    check(&with(&["--cluster-cidr=10.0.0.0/8,x", "--init"]), "\"x\" is not an address range", "10.96.0.0/16");
    let odd = ["server", "--init", "--name=a,b", "--bind-address=127.77.9.1", data_dir.as_str()];
    check(&odd, "\"a,b\" cannot be a server's name", "letters, digits");
    let elsewhere = ["server", "--init", "--bind-address=192.0.2.1", data_dir.as_str()];
    check(&elsewhere, "the API address 192.0.2.1:6443", "an address of this machine");

    let taken = TcpListener::bind("127.77.9.1:6443").expect("the port");
    check(&with(&["--init"]), "the API address 127.77.9.1:6443", "another port");
    drop(taken);
    assert!(!dir.exists(), "something was half-created");

    std::fs::create_dir_all(&dir).expect("a folder");
    std::fs::write(dir.join("state.json"), r#"{"layout_version": 99}"#).expect("written");
    check(&with(&["--init"]), "newer quarterdeck", "newer version");
    assert_eq!(std::fs::read_dir(&dir).expect("a folder").count(), 1, "something was half-created");
}

#[test]
fn agents_and_operations_refuse_what_cannot_work() {
    let root = tempfile::tempdir().expect("a folder");
    let data_dir = format!("--data-dir={}", root.path().display());
    check(&["agent", &data_dir], "no agent has joined", "--token");
    check(&["agent", &data_dir, "--token=qd1.server.e30"], "the join token", "quarterdeck token create");
    check(&["status", &data_dir], "no server lives in", "--data-dir");
    check(&["backup", &data_dir, "/tmp/never"], "no server lives in", "--data-dir");
    restoring_touches_nothing_else(root.path());
    check(&["up", "--servers=2", &data_dir], "no useful quorum", "1, 3 or 5");
    let config = root.path().join("c.yaml");
    std::fs::write(&config, "no-such-flag: 1\n").expect("written");
    let config = format!("--config={}", config.display());
    check(&["agent", &config], "--no-such-flag", "--help");
    assert_eq!(std::fs::read_dir(root.path()).expect("a folder").count(), 1, "something was half-created");
}

/// Run inside the data directory, and naming it `.`: everything in it was removed as if left over.
fn restoring_touches_nothing_else(root: &Path) {
    let dir = root.join("inside");
    std::fs::create_dir_all(&dir).expect("a folder");
    std::fs::write(dir.join("backup.tgz"), "not a backup").expect("written");
    let restore = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quarterdeck"));
        command.args(["restore", "--data-dir", "."]).args(more).current_dir(&dir);
        let output = command.output().expect("it runs");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = restore(&["backup.tgz"]);
    assert!(said.contains("is not a whole backup"), "{said}");
    assert_eq!(
        std::fs::read_dir(&dir).expect("a folder").count(),
        1,
        "something was removed or half-created"
    );
    std::fs::create_dir(dir.join("pki")).expect("a folder");
    let said = restore(&["backup.tgz"]);
    assert!(said.contains("pki is there already") && said.contains("an empty --data-dir"), "{said}");
    std::fs::remove_dir_all(&dir).expect("removed");
}

/// Two clusters; nobody takes the other's data or token.
#[tokio::test(flavor = "multi_thread")]
async fn clusters_do_not_mix() {
    let _machine = beside_others().await;
    let root = tempfile::tempdir().expect("a folder");
    let mut ours = Server::new(root.path(), [127, 77, 10, 1].into(), 1);
    let mut theirs = Server::new(root.path(), [127, 77, 10, 2].into(), 2);
    for server in [&mut ours, &mut theirs] {
        server.start(&["--init".to_owned()]);
        server.ready(READY).await;
    }
    let join = |token: &str, dir: &Path, name: &str, address: &str| {
        let (name, address) = (format!("--name={name}"), format!("--bind-address={address}"));
        run(&["server", &name, &address, "--token", token, "--data-dir", dir.to_str().expect("a path")])
    };
    let fresh = root.path().join("fresh");

    // The right cluster's address with a wrong secret, an agent's token, another authority's hash.
    let altered = |role: &str, find: &str, put: &str| altered(&ours.token(role), role, find, put);
    join(&altered("server", r#""secret":""#, r#""secret":"x"#), &fresh, "n", "127.77.10.3")
        .refused("the token's secret is not this cluster's")
        .refused("quarterdeck token create --role server");
    join(&altered("server", r#""ca_hash":""#, r#""ca_hash":"0"#), &fresh, "n", "127.77.10.3")
        .refused("its authority is not the one that the token names")
        .refused("make a new token");
    join(&ours.token("agent"), &fresh, "n", "127.77.10.3")
        .refused("this is an agent's token")
        .refused("--role server");
    join(&ours.token("server"), &fresh, "s1", "127.77.10.3")
        .refused(r#"the server "s1" at https://127.77.10.1:2380 is already a member"#)
        .refused("drain-server s1");
    clocks_apart(&ours.token("server"), &fresh, root.path());
    assert!(!fresh.exists(), "something was half-created");
    let members = ours.healthy_status(&[]);
    assert!(!members.contains("learner"), "a refused server became a member: {members}");

    // A data directory of another cluster than the token's, and another server's.
    theirs.kill();
    join(&ours.token("server"), &theirs.dir, "s2", "127.77.10.2")
        .refused("is the data of another cluster than the token's")
        .refused("an empty --data-dir");
    join(&ours.token("server"), &theirs.dir, "n", "127.77.10.2")
        .refused(r#"is the data of server "s2", not of "n""#)
        .refused("another --data-dir");
    // The directory of a server that runs.
    let again = ours.command(&["server", "--name=s1", "--bind-address=127.77.10.1"]);
    again.refused("the API address 127.77.10.1:6443").refused("ss -ltnp");
}

/// The token with one place of its content changed.
fn altered(token: &str, role: &str, find: &str, put: &str) -> String {
    use base64::Engine;
    let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let content = token.rsplit('.').next().expect("a part");
    let content = String::from_utf8(engine.decode(content).expect("base64")).expect("text");
    assert!(content.contains(find), "{content}");
    format!("qd1.{role}.{}", engine.encode(content.replacen(find, put, 1)))
}

/// A machine whose clock is an hour and a half ahead, by a library that is loaded before the others.
fn clocks_apart(token: &str, fresh: &Path, root: &Path) {
    const SHIM: &str = r#"
        #define _GNU_SOURCE
        #include <time.h>
        #include <unistd.h>
        #include <sys/syscall.h>
        int clock_gettime(clockid_t clock, struct timespec *now) {
            int status = syscall(SYS_clock_gettime, clock, now);
            if (clock == CLOCK_REALTIME) now->tv_sec += 5400;
            return status;
        }
    "#;
    let (source, library) = (root.join("clock.c"), root.join("clock.so"));
    std::fs::write(&source, SHIM).expect("written");
    let made = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    if !made.is_ok_and(|status| status.success()) {
        skip("clocks apart: no C compiler");
        return;
    }
    let env = [("LD_PRELOAD", library.to_str().expect("a path"))];
    let args = ["server", "--name=n", "--bind-address=127.77.10.3", "--token", token, "--data-dir"];
    let line = [args.as_slice(), &[fresh.to_str().expect("a path")]].concat();
    run_with(&line, &env).refused("the clocks of the two machines are 5").refused("set both clocks");
}

/// Runs a shell line in a mount namespace of its own, where it can lay something over a part of the machine.
fn in_other_machine(prepare: &str, args: &[&str]) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        skip("another machine is made by mounting, which needs root");
        return None;
    }
    let line = format!("{prepare} && exec {} {}", env!("CARGO_BIN_EXE_quarterdeck"), args.join(" "));
    let output =
        Command::new("unshare").args(["--mount", "sh", "-ec", &line]).output().expect("unshare runs");
    assert!(!output.status.success(), "{args:?} succeeded");
    Some(String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn machines_that_are_too_small_or_lack_features_are_refused() {
    let root = tempfile::tempdir().expect("a folder");
    let dir = root.path().join("data");
    let path = dir.display();
    let token = {
        use base64::Engine;
        let content = r#"{"servers":["127.77.11.1:6444"],"ca_hash":"0","secret":"a.b"}"#;
        format!("qd1.agent.{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(content))
    };
    let server =
        ["server", "--init", "--bind-address=127.77.11.1", &format!("--data-dir={path}")].map(str::to_owned);
    let agent = ["agent".to_owned(), format!("--token={token}"), format!("--data-dir={path}")];
    let meminfo = root.path().join("meminfo");
    std::fs::write(&meminfo, "MemTotal: 100000 kB\n").expect("written");
    let little_memory = format!("mount --bind {} /proc/meminfo", meminfo.display());
    let little_disk = format!("mount -t tmpfs -o size=64m none {}", root.path().display());
    let cases: [(&str, &[String], &str, &str); 5] = [
        (&little_memory, &server, "97 MiB of memory", "a larger machine"),
        (&little_memory, &agent, "97 MiB of memory", "a larger machine"),
        (&little_disk, &server, "has only 64 MiB of room", "another --data-dir"),
        (
            "mount -t tmpfs none /sys/fs/cgroup",
            &agent,
            "control groups at /sys/fs/cgroup lack cpu",
            "mount cgroup2",
        ),
        ("mount -t tmpfs none /usr/sbin", &agent, "`nft` is not installed", "make setup"),
    ];
    for (prepare, args, problem, mend) in cases {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let Some(text) = in_other_machine(prepare, &args) else { return };
        assert!(text.contains(problem), "{prepare}: {text:?} lacks {problem:?}");
        assert!(text.contains(mend), "{prepare}: {text:?} lacks {mend:?}");
        assert!(!dir.exists(), "{prepare}: something was half-created");
    }
}
