//! `chaos gaps`: how long clients wait when a member is lost.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chaos::cluster::Cluster;
use chaos::gaps::{self, Gap, Loss, Whom, percentile};

use super::{Outcome, Tested};

/// One duration of a [`Gap`], in seconds.
type Measured = fn(&Gap) -> f64;

/// What is measured.
const KINDS: [(&str, Measured); 3] = [
    ("write", |gap| gap.write),
    ("linearizable read, healthy side", |gap| gap.linearizable_read),
    ("serializable read, healthy side", |gap| gap.serializable_read),
];

/// Loses the leader, or a follower, again and again, and measures the longest gap between successful operations each time.
#[derive(clap::Args)]
pub struct Args {
    /// kill, pause, cut or deaf, or several of them, one after the other.
    #[arg(long, value_delimiter = ',', default_value = "kill")]
    loss: Vec<Loss>,
    /// Lose a follower instead of the leader: then nobody on the healthy side should notice.
    #[arg(long)]
    follower: bool,
    /// How often, by each.
    #[arg(long, default_value_t = 34)]
    count: u32,
    /// Data and logs of the members, and `gaps.jsonl`: a line for each fault.
    #[arg(long, default_value = ".run/chaos-gaps")]
    dir: PathBuf,
    #[command(flatten)]
    tested: Tested,
}

pub fn execute(args: &Args) -> Outcome {
    let (whom, lost) = match args.follower {
        true => (Whom::Follower, "follower"),
        false => (Whom::Leader, "leader"),
    };
    let ground = args.tested.ground()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if args.dir.exists() {
        std::fs::remove_dir_all(&args.dir)?;
    }
    std::fs::create_dir_all(&args.dir)?;
    let root = args.dir.canonicalize()?;
    println!("| {lost} lost by | faults | operation | p50 | p90 | p99 | longest |");
    println!("|---|---|---|---|---|---|---|");
    let all = runtime.block_on(async {
        let (program, members) = (args.tested.program(), args.tested.members);
        let cluster = Arc::new(Cluster::start_all(ground.clone(), program, &root, members, false).await?);
        let mut all = Vec::new();
        for loss in &args.loss {
            let gaps = gaps::measure(cluster.clone(), whom, *loss, args.count).await?;
            let name = format!("{loss:?}").to_lowercase();
            print(&name, &gaps);
            keep(&root.join("gaps.jsonl"), &name, &gaps)?;
            all.extend(gaps);
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(all)
    })?;
    ground.clear()?;
    if args.loss.len() > 1 {
        print("any of them", &all);
    }
    Ok(true)
}

fn print(name: &str, gaps: &[Gap]) {
    for (kind, of) in KINDS {
        let values: Vec<f64> = gaps.iter().map(of).collect();
        let at = |percent| percentile(&values, percent);
        println!(
            "| {name} | {} | {kind} | {:.3} s | {:.3} s | {:.3} s | {:.3} s |",
            gaps.len(),
            at(50.0),
            at(90.0),
            at(99.0),
            at(100.0)
        );
    }
}

fn keep(path: &Path, loss: &str, gaps: &[Gap]) -> std::io::Result<()> {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    for gap in gaps {
        writeln!(file, "{}", serde_json::json!({ "loss": loss, "gap": gap }))?;
    }
    Ok(())
}
