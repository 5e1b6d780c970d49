//! `quarterdeck status`: members, leader, health, versions and certificates at a glance.

use std::time::SystemTime;

use clap::Args;
use serde::Serialize;

use super::{Here, store};
use crate::failure::{Failure, Result};
use crate::pki::leaves::inspect;
use crate::server::layout::{Layout, State};

/// Certificates with less life left than this are pointed out; days.
const CERTIFICATE_WARN_DAYS: u64 = 30;

/// Shows the cluster's members, their health, versions and leader, and this server's certificates.
///
/// Exit status 1 when a member does not answer.
#[derive(Args, Clone, Debug)]
pub struct StatusOptions {
    #[command(flatten)]
    here: Here,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Default, Serialize, PartialEq)]
struct MemberRow {
    name: String,
    id: String,
    url: String,
    role: &'static str,
    healthy: bool,
    version: String,
    db_size_bytes: i64,
    raft_index: u64,
    problem: Option<String>,
}

#[derive(Debug, Serialize)]
struct CertificateRow {
    file: String,
    subject: String,
    days_left: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    cluster_id: String,
    api_ready: bool,
    members: Vec<MemberRow>,
    certificates: Vec<CertificateRow>,
}

pub async fn run(options: StatusOptions) -> Result<()> {
    let (layout, state) = options.here.load()?;
    let report = Report {
        cluster_id: state.cluster_id.clone(),
        api_ready: match super::client_from(&layout.admin_kubeconfig()).await {
            Ok(client) => super::is_ready(&client).await,
            Err(_) => false,
        },
        members: member_rows(&layout, &state).await?,
        certificates: certificate_rows(&layout, SystemTime::now())?,
    };
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", render(&report));
    }
    let down: Vec<&str> =
        report.members.iter().filter(|row| !row.healthy).map(|row| row.name.as_str()).collect();
    if down.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("not healthy: {}", down.join(", ")))
        .mend("look at the server's log, start it again, or replace it (`quarterdeck drain-server --help`)"))
}

async fn member_rows(layout: &Layout, state: &State) -> Result<Vec<MemberRow>> {
    let members = store::members(store::connect(layout, &state.reached_at.store_url).await?).await?;
    let mut rows = Vec::new();
    for member in members {
        let url = member.client_ur_ls.first().cloned().unwrap_or_default();
        let mut row =
            MemberRow { name: member.name, id: format!("{:x}", member.id), url, ..Default::default() };
        let status = match store::connect(layout, &row.url).await {
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
                row.version = status.version;
                row.db_size_bytes = status.db_size;
                row.raft_index = status.raft_index;
            }
            Err(failure) => {
                row.role = "down";
                row.problem = Some(failure.to_string());
            }
        }
        rows.push(row);
    }
    Ok(rows)
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
        Ok(CertificateRow { file, subject: status.subject, days_left: left.as_secs() / 86_400 })
    };
    files.iter().map(row).collect()
}

fn render(report: &Report) -> String {
    let mut out = format!(
        "cluster {}   API of this server: {}\n\n",
        report.cluster_id,
        if report.api_ready { "ready" } else { "NOT READY" }
    );
    let mut rows = vec![["MEMBER", "ROLE", "HEALTH", "VERSION", "DATA", "INDEX", "URL"].map(str::to_owned)];
    rows.extend(report.members.iter().map(|row| {
        let health = if row.healthy { "ok" } else { row.problem.as_deref().unwrap_or("no leader") };
        [
            row.name.clone(),
            row.role.to_owned(),
            health.lines().next().unwrap_or_default().to_owned(),
            row.version.clone(),
            format!("{:.1} MiB", row.db_size_bytes as f64 / f64::from(1 << 20)),
            row.raft_index.to_string(),
            row.url.clone(),
        ]
    }));
    out += &align(&rows);
    let soon: Vec<&CertificateRow> =
        report.certificates.iter().filter(|row| row.days_left < CERTIFICATE_WARN_DAYS).collect();
    let shortest = report.certificates.iter().map(|row| row.days_left).min().unwrap_or_default();
    out += &format!("\n{} certificates, the first ends in {shortest} days", report.certificates.len());
    for row in soon {
        out += &format!("\n  {} ({}) ends in {} days", row.file, row.subject, row.days_left);
    }
    out + "\n"
}

/// Columns padded to their widest cell.
fn align<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or_default());
    let mut out = String::new();
    for row in rows {
        let line: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        out += line.join("  ").trim_end();
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_names_what_needs_attention() {
        let report = Report {
            cluster_id: "c".into(),
            api_ready: true,
            members: vec![
                MemberRow {
                    name: "s1".into(),
                    role: "leader",
                    healthy: true,
                    version: "3.7.0".into(),
                    db_size_bytes: 3 << 19,
                    raft_index: 7,
                    url: "https://a:2379".into(),
                    ..Default::default()
                },
                MemberRow {
                    name: "s2".into(),
                    role: "down",
                    problem: Some("gone".into()),
                    ..Default::default()
                },
            ],
            certificates: vec![CertificateRow { file: "a.crt".into(), subject: "CN=a".into(), days_left: 3 }],
        };
        expect_test::expect![[r#"
            cluster c   API of this server: ready

            MEMBER  ROLE    HEALTH  VERSION  DATA     INDEX  URL
            s1      leader  ok      3.7.0    1.5 MiB  7      https://a:2379
            s2      down    gone             0.0 MiB  0

            1 certificates, the first ends in 3 days
              a.crt (CN=a) ends in 3 days
        "#]]
        .assert_eq(&render(&report));
    }
}
