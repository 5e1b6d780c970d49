//! Money moves between accounts and is neither made nor destroyed: every read sees the same total (Jepsen's `bank`).

use super::Verdict;
use super::register::describe;
use crate::history::{Action, History, Outcome, Value};

/// Judges all reads of the accounts against `total`. No account may be below zero.
pub fn check(history: &History, total: i64) -> Verdict {
    for operation in &history.operations {
        let (Action::ReadAccounts, Outcome::Ok { value: Value::Accounts(accounts), .. }) =
            (&operation.action, &operation.outcome)
        else {
            continue;
        };
        let sum: i64 = accounts.values().sum();
        let overdrawn = accounts.iter().find(|(_, balance)| **balance < 0);
        let why = match overdrawn {
            Some((account, balance)) => format!("account {account} is at {balance}"),
            None if sum != total => format!("the accounts hold {sum}, not {total}"),
            None => continue,
        };
        return Verdict::Invalid { why, evidence: vec![describe(operation)] };
    }
    Verdict::Valid
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Nanos, Operation, Process};

    #[test]
    fn planted_violations_are_convicted() {
        for (balances, valid) in [([5, 5], true), ([10, 0], true), ([5, 4], false), ([11, -1], false)] {
            let accounts =
                balances.into_iter().enumerate().map(|(account, sum)| (account as u32, sum)).collect();
            let outcome = Outcome::Ok { value: Value::Accounts(accounts), revision: None };
            let operations = vec![Operation {
                process: Process(0),
                invoked: Nanos(0),
                completed: Nanos(1),
                action: Action::ReadAccounts,
                outcome,
            }];
            assert_eq!(check(&History { operations }, 10) == Verdict::Valid, valid, "{balances:?}");
        }
    }
}
