//! etcdctl, Debian's 3.4 and a newer one, through every command of `tests/clients/etcdctl.sh`: against one member and
//! three, plain and over TLS, with and without users. The tour itself passes on real etcd. A tour takes up to a minute,
//! so Debian's plain ones run always and the others where `ETCDCTL_TOURS=all` asks for them.

mod store;

use std::path::{Path, PathBuf};
use std::process::Command;

use store::{Setup, Store};

/// The newer etcdctl; built once from the Go module, whose cache later runs find.
const NEWER: &str = "go.etcd.io/etcd/etcdctl/v3@v3.6.4";

/// Debian's etcdctl. On CI, where the set-up installs it, it must be there.
fn debians() -> Option<PathBuf> {
    let there = Command::new("etcdctl").arg("version").output().is_ok();
    assert!(there || std::env::var_os("CI").is_none(), "CI must have etcdctl");
    if !there {
        println!("skipped: etcdctl is not installed");
    }
    there.then(|| "etcdctl".into())
}

fn newer() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("etcdctl-newer");
    let made = Command::new("go").args(["install", NEWER]).env("GOBIN", &folder).output();
    match made {
        Ok(output) if output.status.success() => Some(folder.join("etcdctl")),
        Ok(output) => {
            println!("skipped: {NEWER} cannot be had: {}", String::from_utf8_lossy(&output.stderr));
            None
        }
        Err(_) => {
            println!("skipped: go is not installed");
            None
        }
    }
}

fn is_wanted(setup: Setup) -> bool {
    let plain = !setup.over_tls && !setup.with_users;
    let wanted = plain || std::env::var("ETCDCTL_TOURS").is_ok_and(|value| value == "all");
    if !wanted {
        println!("skipped: ETCDCTL_TOURS=all runs this one, too");
    }
    wanted
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
                if is_wanted(setup)
                    && let Some(etcdctl) = $etcdctl()
                {
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
    newer_on_one_over_tls: newer, 21_680, 1, true, false;
    newer_on_three_over_tls_with_users: newer, 21_690, 3, true, true;
}
