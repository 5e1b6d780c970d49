//! etcdctl, Debian's 3.4 and a newer one, through every command of `tests/clients/etcdctl.sh`: against one member and
//! three, plain and over TLS, with and without users. The tour itself passes on real etcd.

mod store;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use store::{Setup, Store};

/// The newer etcdctl; built once by the Go module in `tests/clients/etcdctl-go`, which pins its version.
const NEWER: &str = "go.etcd.io/etcd/etcdctl/v3";

/// Says why a tour cannot run here, past the test harness, which keeps what passing tests print.
fn skip(reason: &str) {
    // Where even that cannot be said, nobody listens.
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
}

/// Debian's etcdctl. On CI, where the set-up installs it, it must be there.
fn debians() -> Option<PathBuf> {
    let there = Command::new("etcdctl").arg("version").output().is_ok();
    assert!(there || std::env::var_os("CI").is_none(), "CI must have etcdctl");
    if !there {
        skip("etcdctl is not installed");
    }
    there.then(|| "etcdctl".into())
}

/// The newer one, or why it cannot be had.
static MADE: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("etcdctl-newer");
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/clients/etcdctl-go");
    let made = Command::new("go").args(["build", "-o"]).arg(&program).arg(NEWER).current_dir(module).output();
    let made = made.map_err(|error| format!("go: {error}"))?;
    if made.status.success() {
        return Ok(program);
    }
    Err(format!("{NEWER} cannot be had: {}", String::from_utf8_lossy(&made.stderr)))
});

fn newer() -> Option<PathBuf> {
    MADE.as_ref().inspect_err(|reason| skip(reason)).ok().cloned()
}

fn tour(etcdctl: &Path, setup: Setup) {
    let store = Store::start(setup);
    let mut script = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/clients/etcdctl.sh"));
    script.arg(etcdctl);
    if setup.with_users {
        script.arg("auth");
    }
    let output = script.envs(store.etcdctl_environment()).output().expect("the tour runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{setup:?}:\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.matches("ok  ").count() > 80, "{setup:?}: the tour was short:\n{text}");
}

macro_rules! tours {
    ($($name:ident: $etcdctl:ident, $port:literal, $members:literal, $over_tls:literal, $with_users:literal;)*) => {
        $(
            #[test]
            fn $name() {
                let (members, over_tls, with_users) = ($members, $over_tls, $with_users);
                let setup = Setup { port: $port, members, over_tls, with_users };
                if let Some(etcdctl) = $etcdctl() {
                    tour(&etcdctl, setup);
                }
            }
        )*
    };
}

tours! {
    debians_on_one_plain: debians, 21_600, 1, false, false;
    debians_on_one_plain_with_users: debians, 21_610, 1, false, true;
    debians_on_one_over_tls: debians, 21_620, 1, true, false;
    debians_on_one_over_tls_with_users: debians, 21_630, 1, true, true;
    debians_on_three_plain: debians, 21_640, 3, false, false;
    debians_on_three_plain_with_users: debians, 21_650, 3, false, true;
    debians_on_three_over_tls: debians, 21_660, 3, true, false;
    debians_on_three_over_tls_with_users: debians, 21_670, 3, true, true;
    newer_on_one_plain: newer, 21_700, 1, false, false;
    newer_on_one_plain_with_users: newer, 21_710, 1, false, true;
    newer_on_one_over_tls: newer, 21_720, 1, true, false;
    newer_on_one_over_tls_with_users: newer, 21_730, 1, true, true;
    newer_on_three_plain: newer, 21_740, 3, false, false;
    newer_on_three_plain_with_users: newer, 21_750, 3, false, true;
    newer_on_three_over_tls: newer, 21_760, 3, true, false;
    newer_on_three_over_tls_with_users: newer, 21_770, 3, true, true;
}
