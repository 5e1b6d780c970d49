//! `quarterdeck drain-server`: takes one server out of the cluster without downtime, or says why it must stay.

use std::time::{Duration, Instant};

use clap::Args;
use proto::etcdserverpb::cluster_client::ClusterClient;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::etcdserverpb::{Member, MemberRemoveRequest, MoveLeaderRequest};
use tonic::Code;
use tonic::transport::Channel;

use super::{Here, store};
use crate::failure::{Failure, Result};
use crate::ops;
use crate::server::directory;
use crate::server::layout::{Layout, State};

/// A leader that has just begun has not heard from all members yet, and refuses as if those were down.
const LEADER_PATIENCE: Duration = Duration::from_secs(10);
const LEADER_PAUSE: Duration = Duration::from_millis(250);

/// Takes one server out of the cluster, running or dead, without downtime.
///
/// Leadership moves away first, and the command refuses where the remaining servers would have no quorum. The server's
/// process then ends by itself (exit status 3); its data directory is of no more use. To replace a dead server: drain it
/// from a living one, then start the new one with --token. One at a time.
#[derive(Args, Clone, Debug)]
pub struct DrainServerOptions {
    #[command(flatten)]
    here: Here,
    /// The server to remove, as `quarterdeck status` names it; one that joined and never started by its peer URL.
    name: String,
}

/// What is known of one member when the decision is made.
#[derive(Debug, Clone, Copy)]
struct Voter<'a> {
    name: &'a str,
    answers: bool,
}

/// Whether the voters that answer keep a quorum once `leaving` is gone; the error says what is missing.
fn may_leave(voters: &[Voter<'_>], leaving: &str) -> Result<()> {
    let staying: Vec<_> = voters.iter().filter(|voter| voter.name != leaving).collect();
    if staying.is_empty() {
        return Err(Failure::new(format!("{leaving} is the only server; without it there is no cluster"))
            .mend("add another server first"));
    }
    let answering = staying.iter().filter(|voter| voter.answers).count();
    let quorum = staying.len() / 2 + 1;
    if answering < quorum {
        let silent: Vec<&str> =
            staying.iter().filter(|voter| !voter.answers).map(|voter| voter.name).collect();
        return Err(Failure::new(format!(
            "without {leaving}, {answering} of {} servers answer, and {quorum} are needed",
            staying.len()
        ))
        .mend(format!("bring back {} first", silent.join(" or "))));
    }
    Ok(())
}

pub async fn run(options: DrainServerOptions) -> Result<()> {
    let (layout, state) = options.here.load()?;
    let (members, leader, answering) = survey(&layout, &state).await?;
    let leaving = named(&members, &options.name)?;
    let voters: Vec<Voter<'_>> = members
        .iter()
        .filter(|member| !member.is_learner)
        .map(|member| Voter { name: &member.name, answers: answering.contains(&member.id) })
        .collect();
    if !leaving.is_learner {
        may_leave(&voters, &leaving.name)?;
    }
    if leader == leaving.id {
        move_leader(&layout, leaving, &members, &answering).await?;
    }
    let stays = members
        .iter()
        .find(|member| member.id != leaving.id && answering.contains(&member.id))
        .ok_or_else(|| Failure::new("no other member answers"))?;
    let channel = store::connect(&layout, stays.client_ur_ls.first().map_or("", String::as_str)).await?;
    remove(channel, leaving.id).await?;
    if !leaving.name.is_empty() {
        forget(&layout, &state, &leaving.name).await;
    }
    println!("{} is no longer a member; its process ends by itself within seconds", label(leaving));
    Ok(())
}

/// What a person calls a member: one that has never started has no name yet, only the address that it joined with.
fn label(member: &Member) -> &str {
    match member.name.as_str() {
        "" => member.peer_ur_ls.first().map_or("", String::as_str),
        name => name,
    }
}

fn named<'a>(members: &'a [Member], name: &str) -> Result<&'a Member> {
    members.iter().find(|member| label(member) == name && !name.is_empty()).ok_or_else(|| {
        let names: Vec<&str> = members.iter().map(label).collect();
        Failure::new(format!("no member is named {name:?}")).mend(format!("choose from {}", names.join(", ")))
    })
}

async fn remove(channel: Channel, id: u64) -> Result<()> {
    let deadline = Instant::now() + LEADER_PATIENCE;
    let mut client = ClusterClient::new(channel);
    loop {
        match client.member_remove(MemberRemoveRequest { id }).await {
            Err(status) if status.code() == Code::FailedPrecondition && Instant::now() < deadline => {
                tokio::time::sleep(LEADER_PAUSE).await;
            }
            answer => return Ok(answer.map(drop)?),
        }
    }
}

/// Takes the server off the list that agents and tokens use. A server that stays removes what is left at its next start.
async fn forget(layout: &Layout, state: &State, name: &str) {
    for (other, addresses) in state.everywhere().filter(|(other, _)| *other != name) {
        let withdrawn = match ops::admin_client(layout, &addresses.api_url).await {
            Ok(client) => directory::withdraw(&client, name).await,
            Err(failure) => Err(failure),
        };
        match withdrawn {
            Ok(()) => return,
            Err(failure) => {
                tracing::debug!(other, %failure, "the list of servers could not be changed there")
            }
        }
    }
}

async fn survey(layout: &Layout, state: &State) -> Result<(Vec<Member>, u64, Vec<u64>)> {
    let members = store::members(store::connect_any(layout, state).await?).await?;
    let (mut leader, mut answering) = (0, Vec::new());
    for member in &members {
        let url = member.client_ur_ls.first().map_or("", String::as_str);
        if let Ok(channel) = store::connect(layout, url).await
            && let Ok(status) = store::member_status(channel).await
        {
            answering.push(member.id);
            leader = if status.leader == 0 { leader } else { status.leader };
        }
    }
    Ok((members, leader, answering))
}

async fn move_leader(layout: &Layout, leaving: &Member, members: &[Member], answering: &[u64]) -> Result<()> {
    let target = members
        .iter()
        .find(|member| member.id != leaving.id && !member.is_learner && answering.contains(&member.id))
        .ok_or_else(|| Failure::new("no other voter answers, so leadership cannot move"))?;
    let channel = store::connect(layout, leaving.client_ur_ls.first().map_or("", String::as_str)).await?;
    MaintenanceClient::new(channel).move_leader(MoveLeaderRequest { target_id: target.id }).await?;
    println!("leadership moved to {}", target.name);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(answering: &[(&'static str, bool)], leaving: &str, refusal: Option<&str>) {
        let voters: Vec<Voter<'_>> =
            answering.iter().map(|&(name, answers)| Voter { name, answers }).collect();
        let got = may_leave(&voters, leaving).err().map(|failure| failure.to_string());
        match refusal {
            None => assert_eq!(got, None),
            Some(part) => assert!(got.as_deref().is_some_and(|text| text.contains(part)), "{got:?}"),
        }
    }

    #[test]
    fn members_without_a_name_are_called_by_their_address() {
        let member = |id, name: &str, url: &str| Member {
            id,
            name: name.into(),
            peer_ur_ls: vec![url.into()],
            ..Default::default()
        };
        let members = [member(1, "a", "https://10.0.0.1:2380"), member(2, "", "https://10.0.0.2:2380")];
        for (name, expected) in [
            ("a", Some(1)),
            ("https://10.0.0.2:2380", Some(2)),
            ("https://10.0.0.1:2380", None),
            ("b", None),
            ("", None),
        ] {
            let got = named(&members, name);
            assert_eq!(got.as_ref().ok().map(|member| member.id), expected, "{name:?}");
            if let Err(failure) = got {
                assert!(failure.to_string().contains("choose from a, https://10.0.0.2:2380"), "{failure}");
            }
        }
    }

    #[test]
    fn a_server_leaves_only_if_the_others_keep_a_quorum() {
        check(&[("a", true), ("b", true), ("c", true)], "a", None);
        check(&[("a", true), ("b", true), ("c", false)], "c", None);
        check(&[("a", true), ("b", true), ("c", false)], "a", Some("bring back c"));
        check(&[("a", true), ("b", true)], "b", None);
        check(&[("a", true)], "a", Some("only server"));
    }
}
