//! `quarterdeck status`: the cluster at a glance.

use std::time::SystemTime;

use clap::Args;
use serde::Serialize;

use super::table::align;
use super::{Here, store};
use crate::failure::{Failure, Result};
use crate::pki::leaves::inspect;
use crate::server::directory::{self, Servers};
use crate::server::layout::{Layout, State};

/// Certificates with less life left than this are pointed out; days.
const CERTIFICATE_WARN_DAYS: u64 = 30;
const SECS_A_DAY: u64 = 86_400;

/// Shows the servers with their health, versions and leader, the nodes, and this server's certificates.
///
/// Exit status 1 when a server does not answer.
#[derive(Args, Clone, Debug)]
pub struct StatusOptions {
    #[command(flatten)]
    here: Here,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Default, Serialize, PartialEq)]
struct ServerRow {
    name: String,
    id: String,
    store_url: String,
    api_url: String,
    /// The store member's part: leader, follower, learner or down.
    role: &'static str,
    healthy: bool,
    api_ready: bool,
    version: String,
    etcd_version: String,
    db_size_bytes: i64,
    raft_index: u64,
    problem: Option<String>,
}

impl ServerRow {
    /// What is wrong with this server, if anything is.
    fn complaint(&self) -> Option<String> {
        let store = match (self.healthy, self.role) {
            (true, _) => None,
            (false, "down") => Some("its store does not answer"),
            (false, _) => Some(self.problem.as_deref().unwrap_or("its store knows no leader")),
        };
        let api = (!self.api_ready).then_some("its API server is not ready");
        let wrong: Vec<&str> = store.into_iter().chain(api).collect();
        (!wrong.is_empty()).then(|| format!("{} ({})", self.name, wrong.join(", ")))
    }
}

#[derive(Debug, Serialize)]
struct CertificateRow {
    file: String,
    subject: String,
    secs_left: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    cluster_id: String,
    servers: Vec<ServerRow>,
    /// Ready and all; nothing where no API server answers.
    nodes: Option<(usize, usize)>,
    certificates: Vec<CertificateRow>,
}

pub async fn run(options: StatusOptions) -> Result<()> {
    let (layout, state) = options.here.load()?;
    let (nodes, directory) = match super::any_client(&layout, &state).await {
        Ok(client) => (super::count_nodes(&client).await.ok(), directory::list(&client).await.ok()),
        Err(_) => (None, None),
    };
    let report = Report {
        cluster_id: state.cluster_id.clone(),
        servers: server_rows(&layout, &state, &known_servers(&state, directory.unwrap_or_default())).await?,
        nodes,
        certificates: certificate_rows(&layout, SystemTime::now())?,
    };
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", render(&report));
    }
    let down: Vec<String> = report.servers.iter().filter_map(ServerRow::complaint).collect();
    if down.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("not healthy: {}", down.join(", ")))
        .mend("look at the server's log, start it again, or replace it (`quarterdeck drain-server --help`)"))
}

/// What this server remembers, and what the cluster's directory says now. A server that has just started stands in
/// neither, but knows itself.
fn known_servers(state: &State, directory: Servers) -> Servers {
    let mut known: Servers = state.everywhere().map(|(name, at)| (name.to_owned(), at.clone())).collect();
    known.extend(directory);
    known
}

async fn server_rows(layout: &Layout, state: &State, servers: &Servers) -> Result<Vec<ServerRow>> {
    let mut members = store::members(store::connect_any(layout, state).await?).await?;
    members.sort_by(|a, b| a.name.cmp(&b.name));
    let rows = members.into_iter().map(|member| server_row(layout, servers, member));
    Ok(futures::future::join_all(rows).await)
}

async fn server_row(layout: &Layout, servers: &Servers, member: proto::etcdserverpb::Member) -> ServerRow {
    let known = servers.get(&member.name).cloned().unwrap_or_default();
    let mut row = ServerRow {
        name: if member.name.is_empty() { "(joining)".to_owned() } else { member.name },
        id: format!("{:x}", member.id),
        // A member publishes its addresses only some moments after it serves.
        store_url: member.client_ur_ls.first().cloned().unwrap_or(known.store_url),
        version: known.version,
        api_ready: match super::admin_client(layout, &known.api_url).await {
            Ok(client) => super::is_ready(&client).await,
            Err(_) => false,
        },
        api_url: known.api_url,
        ..Default::default()
    };
    let status = match store::connect(layout, &row.store_url).await {
        Ok(channel) => store::member_status(channel).await,
        Err(failure) => Err(failure),
    };
    match status {
        Ok(status) => {
            row.role = match (member.is_learner, status.leader == member.id) {
                (true, _) => "learner",
                (false, true) => "leader",
                (false, false) => "follower",
            };
            row.healthy = status.errors.is_empty() && status.leader != 0;
            row.problem = (!status.errors.is_empty()).then(|| status.errors.join(", "));
            row.etcd_version = status.version;
            row.db_size_bytes = status.db_size;
            row.raft_index = status.raft_index;
        }
        Err(failure) => {
            row.role = "down";
            row.problem = Some(failure.into_parts().0);
        }
    }
    row
}

fn certificate_rows(layout: &Layout, now: SystemTime) -> Result<Vec<CertificateRow>> {
    let mut files: Vec<_> = std::fs::read_dir(layout.pki())?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "crt"))
        .collect();
    files.sort();
    let row = |path: &std::path::PathBuf| {
        let status = inspect(path)?;
        let left = status.not_after.duration_since(now).unwrap_or_default();
        let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(CertificateRow { file, subject: status.subject, secs_left: left.as_secs() })
    };
    files.iter().map(row).collect()
}

fn render(report: &Report) -> String {
    let nodes = match report.nodes {
        Some((ready, all)) => format!("{ready} of {all} nodes ready"),
        None => "no API server is ready".to_owned(),
    };
    let mut out = format!("cluster {}, {nodes}\n\n", report.cluster_id);
    let head = ["SERVER", "STORE", "HEALTH", "API", "VERSION", "ETCD", "DATA", "INDEX", "URL"];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(report.servers.iter().map(|row| {
        let health = match (row.healthy, row.role) {
            (true, _) => "ok",
            (false, "down") => "no answer",
            (false, _) => row.problem.as_deref().unwrap_or("no leader"),
        };
        [
            row.name.clone(),
            row.role.to_owned(),
            health.lines().next().unwrap_or_default().to_owned(),
            if row.api_ready { "ready" } else { "NOT READY" }.to_owned(),
            row.version.clone(),
            row.etcd_version.clone(),
            format!("{:.1} MiB", row.db_size_bytes as f64 / f64::from(1 << 20)),
            row.raft_index.to_string(),
            row.api_url.clone(),
        ]
    }));
    out += &align(&rows);
    out + &render_certificates(&report.certificates)
}

fn render_certificates(certificates: &[CertificateRow]) -> String {
    let shortest = certificates.iter().map(|row| row.secs_left).min().unwrap_or_default();
    let mut out = format!(
        "\n{} certificates on this server, the first ends in {}\n",
        certificates.len(),
        left(shortest)
    );
    for row in certificates.iter().filter(|row| row.secs_left < CERTIFICATE_WARN_DAYS * SECS_A_DAY) {
        out += &format!("  {} ({}) ends in {}\n", row.file, row.subject, left(row.secs_left));
    }
    out
}

/// Whole days, or seconds where there is less than one.
fn left(secs: u64) -> String {
    match secs / SECS_A_DAY {
        0 => format!("{secs} s"),
        days => format!("{days} days"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_names_what_needs_attention() {
        let report = Report {
            cluster_id: "c".into(),
            nodes: Some((1, 2)),
            servers: vec![
                ServerRow {
                    name: "s1".into(),
                    role: "leader",
                    healthy: true,
                    api_ready: true,
                    version: "0.1.0".into(),
                    etcd_version: "3.7.0".into(),
                    db_size_bytes: 3 << 19,
                    raft_index: 7,
                    api_url: "https://a:6443".into(),
                    ..Default::default()
                },
                ServerRow {
                    name: "s2".into(),
                    role: "down",
                    problem: Some("gone".into()),
                    ..Default::default()
                },
            ],
            certificates: vec![CertificateRow {
                file: "a.crt".into(),
                subject: "CN=a".into(),
                secs_left: 3 * SECS_A_DAY,
            }],
        };
        expect_test::expect![[r#"
            cluster c, 1 of 2 nodes ready

            SERVER  STORE   HEALTH     API        VERSION  ETCD   DATA     INDEX  URL
            s1      leader  ok         ready      0.1.0    3.7.0  1.5 MiB  7      https://a:6443
            s2      down    no answer  NOT READY                  0.0 MiB  0

            1 certificates on this server, the first ends in 3 days
              a.crt (CN=a) ends in 3 days
        "#]]
        .assert_eq(&render(&report));
        assert_eq!(report.servers[0].complaint(), None);
        let wrong = "s2 (its store does not answer, its API server is not ready)";
        assert_eq!(report.servers[1].complaint().as_deref(), Some(wrong));
    }
}
