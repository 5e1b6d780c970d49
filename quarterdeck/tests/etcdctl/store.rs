//! Members as processes, plain or with certificates; ended with the test.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

/// How long the members may take to listen.
const START_LIMIT: Duration = Duration::from_secs(30);

/// What kind of store.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// The first of ten ports.
    pub port: u16,
    pub members: u16,
    pub over_tls: bool,
    pub with_users: bool,
}

impl Setup {
    fn scheme(self) -> &'static str {
        if self.over_tls { "https" } else { "http" }
    }

    fn client_port(self, member: u16) -> u16 {
        self.port + 2 * member
    }

    fn client_url(self, member: u16) -> String {
        format!("{}://127.0.0.1:{}", self.scheme(), self.client_port(member))
    }

    fn peer_url(self, member: u16) -> String {
        format!("{}://127.0.0.1:{}", self.scheme(), self.client_port(member) + 1)
    }
}

/// Running members.
pub struct Store {
    setup: Setup,
    dir: TempDir,
    members: Vec<Child>,
}

impl Store {
    pub fn start(setup: Setup) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        if setup.over_tls {
            write_certificates(dir.path());
        }
        let mut store = Self { setup, dir, members: Vec::new() };
        for member in 0..setup.members {
            let process = store.command(member).spawn().expect("quarterdeck starts");
            store.members.push(process);
        }
        let deadline = Instant::now() + START_LIMIT;
        for member in 0..setup.members {
            while TcpStream::connect(("127.0.0.1", setup.client_port(member))).is_err() {
                assert!(Instant::now() < deadline, "{setup:?} does not listen: {}", store.log(member));
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        store
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log(&self, member: u16) -> String {
        fs::read_to_string(self.file(&format!("m{member}.log"))).unwrap_or_default()
    }

    fn command(&self, member: u16) -> Command {
        let setup = self.setup;
        let name = format!("m{member}");
        let cluster: Vec<String> =
            (0..setup.members).map(|other| format!("m{other}={}", setup.peer_url(other))).collect();
        let mut command = Command::new(env!("CARGO_BIN_EXE_quarterdeck"));
        command.arg("store").args(["--name", &name]);
        command.arg("--data-dir").arg(self.file(&name));
        command.args(["--listen-client-urls", &setup.client_url(member)]);
        command.args(["--advertise-client-urls", &setup.client_url(member)]);
        command.args(["--listen-peer-urls", &setup.peer_url(member)]);
        command.args(["--initial-advertise-peer-urls", &setup.peer_url(member)]);
        command.args(["--initial-cluster", &cluster.join(",")]);
        // Every command of a user's tour asks for a token: hashing is to cost little here.
        command.args(["--bcrypt-cost", "4"]);
        if setup.over_tls {
            for prefix in ["", "peer-"] {
                command.arg(format!("--{prefix}cert-file")).arg(self.file("leaf.pem"));
                command.arg(format!("--{prefix}key-file")).arg(self.file("leaf.key"));
                command.arg(format!("--{prefix}trusted-ca-file")).arg(self.file("ca.pem"));
                command.arg(format!("--{prefix}client-cert-auth"));
            }
        }
        let log = fs::File::create(self.file(&format!("{name}.log"))).expect("a log");
        command.stdout(Stdio::null()).stderr(log);
        command
    }

    /// What etcdctl is told by its environment. Endpoints are URLs, as people write them.
    pub fn etcdctl_environment(&self) -> Vec<(&'static str, String)> {
        let endpoints: Vec<String> =
            (0..self.setup.members).map(|member| self.setup.client_url(member)).collect();
        let mut environment = vec![("ETCDCTL_ENDPOINTS", endpoints.join(","))];
        if self.setup.over_tls {
            for (name, file) in
                [("ETCDCTL_CACERT", "ca.pem"), ("ETCDCTL_CERT", "leaf.pem"), ("ETCDCTL_KEY", "leaf.key")]
            {
                environment.push((name, self.file(file).display().to_string()));
            }
        }
        environment
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        for member in &mut self.members {
            // It may have ended by itself; either way it is gone afterwards.
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}

/// An authority and one leaf for servers, peers and clients alike. Its common name is empty: where users are required,
/// a name would be one.
fn write_certificates(dir: &Path) {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "test authority");
    let key = KeyPair::generate().expect("a key");
    let authority = CertifiedIssuer::self_signed(params, key).expect("an authority");
    let mut params = CertificateParams::new(vec!["127.0.0.1".into(), "localhost".into()]).expect("names");
    params.distinguished_name = rcgen::DistinguishedName::new();
    let key = KeyPair::generate().expect("a key");
    let leaf = params.signed_by(&key, &authority).expect("a certificate");
    fs::write(dir.join("ca.pem"), authority.pem()).expect("written");
    fs::write(dir.join("leaf.pem"), leaf.pem()).expect("written");
    fs::write(dir.join("leaf.key"), key.serialize_pem()).expect("written");
}
