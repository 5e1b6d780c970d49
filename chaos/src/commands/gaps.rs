//! `chaos gaps`: how long clients wait when a member is lost.

use std::path::PathBuf;
use std::sync::Arc;

use chaos::cluster::Cluster;
use chaos::gaps::{self, Loss, Whom, percentile};

use super::{Outcome, Tested};

/// One duration of a [`gaps::Gap`], in seconds.
type Measured = fn(&gaps::Gap) -> f64;

/// Loses the leader, or a follower, again and again, and measures the longest gap between successful operations each time.
#[derive(clap::Args)]
pub struct Args {
    /// kill, pause or cut.
    #[arg(long, default_value = "kill")]
    loss: String,
    /// Lose a follower instead of the leader: then nobody on the healthy side should notice.
    #[arg(long)]
    follower: bool,
    /// How often.
    #[arg(long, default_value_t = 34)]
    count: u32,
    #[arg(long, default_value = ".run/chaos-gaps")]
    dir: PathBuf,
    #[command(flatten)]
    tested: Tested,
}

pub fn execute(args: &Args) -> Outcome {
    let loss: Loss = args.loss.parse()?;
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
    let gaps = runtime.block_on(async {
        let (program, members) = (args.tested.program(), args.tested.members);
        let cluster = Cluster::start_all(ground.clone(), program, &root, members, false).await?;
        gaps::measure(Arc::new(cluster), whom, loss, args.count).await
    })?;
    ground.clear()?;
    println!("| {lost} lost by | faults | operation | p50 | p90 | p99 | longest |");
    println!("|---|---|---|---|---|---|---|");
    let kinds: [(&str, Measured); 3] = [
        ("write", |gap| gap.write),
        ("linearizable read, healthy side", |gap| gap.linearizable_read),
        ("serializable read, healthy side", |gap| gap.serializable_read),
    ];
    for (name, of) in kinds {
        let values: Vec<f64> = gaps.iter().map(of).collect();
        let at = |percent| percentile(&values, percent);
        println!(
            "| {} | {} | {name} | {:.3} s | {:.3} s | {:.3} s | {:.3} s |",
            args.loss,
            gaps.len(),
            at(50.0),
            at(90.0),
            at(99.0),
            at(100.0)
        );
    }
    Ok(true)
}
