//! Transfers between accounts by optimistic transactions, and reads of all accounts at once.

use std::collections::BTreeMap;

use async_trait::async_trait;
use etcd_client::{Client, Compare, CompareOp, Error, GetOptions, Txn, TxnOp};
use rand::Rng;
use rand::rngs::StdRng;

use super::{Workload, number, revision};
use crate::checkers::{self, Verdict};
use crate::history::{Action, History, Outcome, Process, Value};

const PREFIX: &str = "bank/";
const ACCOUNTS: u32 = 8;
const OPENING: i64 = 100;
const AMOUNT_MAX: i64 = 20;

pub struct Accounts;

#[async_trait]
impl Workload for Accounts {
    async fn set_up(&self, client: &mut Client) -> Result<(), Error> {
        let puts: Vec<TxnOp> =
            (0..ACCOUNTS).map(|account| TxnOp::put(key(account), OPENING.to_string(), None)).collect();
        client.txn(Txn::new().and_then(puts)).await.map(drop)
    }

    fn next(&self, _: Process, rng: &mut StdRng) -> Action {
        if rng.random_ratio(1, 3) {
            return Action::ReadAccounts;
        }
        let from = rng.random_range(0..ACCOUNTS);
        let to = (from + rng.random_range(1..ACCOUNTS)) % ACCOUNTS;
        Action::Transfer { from, to, amount: rng.random_range(1..=AMOUNT_MAX) }
    }

    async fn apply(&self, client: &mut Client, action: &Action) -> Result<Outcome, Error> {
        match action {
            Action::Transfer { from, to, amount } => transfer(client, *from, *to, *amount).await,
            Action::ReadAccounts => {
                let answer = client.get(PREFIX, Some(GetOptions::new().with_prefix())).await?;
                let account = |bytes: &[u8]| number(&bytes[PREFIX.len()..]).unsigned_abs() as u32;
                let accounts: BTreeMap<u32, i64> =
                    answer.kvs().iter().map(|kv| (account(kv.key()), number(kv.value()))).collect();
                Ok(Outcome::Ok { value: Value::Accounts(accounts), revision: revision(answer.header()) })
            }
            other => Ok(Outcome::Fail { error: format!("banks have no {other:?}") }),
        }
    }

    fn last_reads(&self) -> Vec<Action> {
        vec![Action::ReadAccounts]
    }

    fn judge(&self, history: &History) -> Vec<(&'static str, Verdict)> {
        vec![("money is conserved", checkers::bank::check(history, i64::from(ACCOUNTS) * OPENING))]
    }
}

fn key(account: u32) -> String {
    format!("{PREFIX}{account:04}")
}

async fn transfer(client: &mut Client, from: u32, to: u32, amount: i64) -> Result<Outcome, Error> {
    let read = |account| TxnOp::get(key(account), None);
    let answer = client.txn(Txn::new().and_then([read(from), read(to)])).await?;
    let mut found = answer.op_responses().into_iter().filter_map(|response| match response {
        etcd_client::TxnOpResponse::Get(get) => {
            get.kvs().first().map(|kv| (number(kv.value()), kv.mod_revision()))
        }
        _ => None,
    });
    let (Some((debit, debit_revision)), Some((credit, credit_revision))) = (found.next(), found.next())
    else {
        return Ok(Outcome::Fail { error: "an account is missing".to_owned() });
    };
    if debit < amount {
        return Ok(Outcome::Fail { error: "not enough money".to_owned() });
    }
    let same = |account, revision| Compare::mod_revision(key(account), CompareOp::Equal, revision);
    let txn = Txn::new().when([same(from, debit_revision), same(to, credit_revision)]).and_then([
        TxnOp::put(key(from), (debit - amount).to_string(), None),
        TxnOp::put(key(to), (credit + amount).to_string(), None),
    ]);
    let answer = client.txn(txn).await?;
    Ok(match answer.succeeded() {
        true => Outcome::Ok { value: Value::None, revision: revision(answer.header()) },
        false => Outcome::Fail { error: "an account changed meanwhile".to_owned() },
    })
}
