//! `quarterdeck token`: makes, lists and revokes join tokens.

use std::collections::BTreeMap;

use clap::{Args, Subcommand, ValueEnum};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, PostParams};
use kube::{Client, ResourceExt};

use super::Here;
use crate::failure::{Failure, Result};
use crate::pki::authority::fingerprint;
use crate::pki::files::read_text;
use crate::server::layout::{Layout, State};
use crate::token::{Content, JoinToken, Role, random_word};

const BOOTSTRAP_TYPE: &str = "bootstrap.kubernetes.io/token";
/// The group whose members may ask for a node certificate.
pub const BOOTSTRAP_GROUP: &str = "system:bootstrappers:quarterdeck:agents";

/// Makes, lists and revokes the tokens with which machines join.
///
/// A token names all servers and pins the cluster's authority, so that a joining machine trusts nothing else. An agent's
/// token ends after a day unless told otherwise; the server token does not end, and whoever holds it can have the
/// cluster's keys.
#[derive(Args, Clone, Debug)]
pub struct TokenOptions {
    #[command(flatten)]
    here: Here,
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Subcommand, Clone, Debug)]
enum TokenCommand {
    /// Print a new agent token, or the cluster's server token.
    Create {
        #[arg(long, value_enum, default_value_t = RoleName::Agent)]
        role: RoleName,
        /// How long an agent token can be used, such as 24h; 0 for ever.
        #[arg(long, default_value = "24h")]
        ttl: String,
    },
    /// List agent tokens by their public half.
    List,
    /// Revoke an agent token, by the public half that `list` shows.
    Delete { id: String },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RoleName {
    Agent,
    Server,
}

pub async fn run(options: TokenOptions) -> Result<()> {
    let (layout, state) = options.here.load()?;
    match options.command {
        TokenCommand::Create { role: RoleName::Server, .. } => println!("{}", server_token(&layout, &state)?),
        TokenCommand::Create { role: RoleName::Agent, ttl } => {
            let client = super::any_client(&layout, &state).await?;
            println!("{}", create_agent_token(&client, &layout, &state, parse_ttl(&ttl)?).await?);
        }
        TokenCommand::List => {
            println!("ID      EXPIRES");
            for secret in secrets(&super::any_client(&layout, &state).await?).await? {
                println!("{}  {}", field(&secret, "token-id"), field(&secret, "expiration"));
            }
        }
        TokenCommand::Delete { id } => {
            let client = super::any_client(&layout, &state).await?;
            let name = format!("bootstrap-token-{id}");
            if api(&client).get_opt(&name).await?.is_none() {
                return Err(Failure::new(format!("there is no agent token {id:?}"))
                    .mend("`quarterdeck token list` shows the first halves of all"));
            }
            api(&client).delete(&name, &DeleteParams::default()).await?;
            println!("{id} is revoked; nodes that joined with it stay");
        }
    }
    Ok(())
}

/// The token with which servers join; it does not expire.
pub fn server_token(layout: &Layout, state: &State) -> Result<JoinToken> {
    Ok(JoinToken { role: Role::Server, content: content(layout, state, state.server_secret.clone())? })
}

/// Makes a bootstrap token as upstream knows it, and wraps it for an agent. `ttl` of `None` does not expire.
pub async fn create_agent_token(
    client: &Client,
    layout: &Layout,
    state: &State,
    ttl: Option<SignedDuration>,
) -> Result<JoinToken> {
    let (id, secret) = (random_word(6), random_word(16));
    let mut data = BTreeMap::from([
        ("token-id".to_owned(), id.clone()),
        ("token-secret".to_owned(), secret.clone()),
        ("usage-bootstrap-authentication".to_owned(), "true".to_owned()),
        ("usage-bootstrap-signing".to_owned(), "true".to_owned()),
        ("auth-extra-groups".to_owned(), BOOTSTRAP_GROUP.to_owned()),
        ("description".to_owned(), "Join token of quarterdeck agents.".to_owned()),
    ]);
    if let Some(ttl) = ttl {
        let end = Timestamp::now() + ttl;
        data.insert("expiration".to_owned(), end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    }
    let object = Secret {
        metadata: ObjectMeta { name: Some(format!("bootstrap-token-{id}")), ..Default::default() },
        type_: Some(BOOTSTRAP_TYPE.to_owned()),
        string_data: Some(data),
        ..Default::default()
    };
    api(client).create(&PostParams::default(), &object).await?;
    Ok(JoinToken { role: Role::Agent, content: content(layout, state, format!("{id}.{secret}"))? })
}

fn content(layout: &Layout, state: &State, secret: String) -> Result<Content> {
    let ca_hash = fingerprint(&read_text(&layout.pki_file("ca.crt"))?)?;
    let servers = state.everywhere().map(|(_, addresses)| addresses.join.clone()).collect();
    Ok(Content { servers, ca_hash, secret })
}

fn api(client: &Client) -> Api<Secret> {
    Api::namespaced(client.clone(), "kube-system")
}

async fn secrets(client: &Client) -> Result<Vec<Secret>> {
    let list = api(client).list(&ListParams::default().fields(&format!("type={BOOTSTRAP_TYPE}"))).await?;
    Ok(list.items.into_iter().filter(|secret| secret.name_any().starts_with("bootstrap-token-")).collect())
}

fn field(secret: &Secret, name: &str) -> String {
    let value = secret.data.as_ref().and_then(|data| data.get(name));
    value.map_or_else(|| "never".to_owned(), |bytes| String::from_utf8_lossy(&bytes.0).into_owned())
}

fn parse_ttl(text: &str) -> Result<Option<SignedDuration>> {
    if text == "0" {
        return Ok(None);
    }
    let mend = "write it like 24h or 30m, or 0 for ever";
    match text.parse::<SignedDuration>() {
        Ok(ttl) if ttl.is_positive() => Ok(Some(ttl)),
        Ok(_) => Err(Failure::new(format!("--ttl {text:?} is in the past")).mend(mend)),
        Err(error) => Err(Failure::new(format!("--ttl {text:?}: {error}")).mend(mend)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_of_tokens() {
        for (text, secs) in [("24h", Some(86_400)), ("30m", Some(1_800)), ("0", None)] {
            assert_eq!(parse_ttl(text).expect(text).map(|ttl| ttl.as_secs()), secs);
        }
        for text in ["-1h", "soon", ""] {
            assert!(parse_ttl(text).expect_err(text).to_string().contains("mend:"));
        }
    }
}
