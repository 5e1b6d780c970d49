//! Histories in Jepsen's form, so that its checkers and others that read it can judge them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{Action, History, Micro, Nanos, Object, Operation, Outcome, Process, Value};

impl History {
    /// Jepsen's form: a map an event, `:invoke` and then `:ok`, `:fail` or `:info`, by time. There a process ends with an
    /// `:info`, as its operation stays under way for ever; what it does next is another process's.
    pub fn to_edn(&self) -> String {
        let mut events: Vec<(Nanos, String)> = Vec::new();
        let processes = self.operations.iter().map(|operation| operation.process.0 + 1).max().unwrap_or(0);
        let mut crashes: BTreeMap<Process, u32> = BTreeMap::new();
        for operation in &self.operations {
            let crashed = crashes.entry(operation.process).or_default();
            let process = operation.process.0 + *crashed * processes;
            *crashed += u32::from(operation.ends().is_none());
            let (invoke, complete) = edn_events(operation, process);
            events.push((operation.invoked, invoke));
            events.push((operation.completed, complete));
        }
        events.sort_by_key(|(time, _)| *time);
        let mut out = String::from("[");
        for (index, (_, event)) in events.iter().enumerate() {
            let _ = write!(out, "{}{event}", if index == 0 { "" } else { "\n " });
        }
        out + "]\n"
    }
}

fn edn_events(operation: &Operation, process: u32) -> (String, String) {
    let (f, asked) = edn_action(&operation.action);
    let (kind, value) = match &operation.outcome {
        Outcome::Ok { value, .. } => {
            (":ok", edn_answer(&operation.action, value).unwrap_or_else(|| asked.clone()))
        }
        Outcome::Fail { .. } => (":fail", asked.clone()),
        Outcome::Unknown { .. } => (":info", asked.clone()),
    };
    let event = |kind: &str, time: Nanos, value: &str| {
        format!("{{:type {kind}, :f {f}, :process {process}, :time {}, :value {value}}}", time.0)
    };
    (event(":invoke", operation.invoked, &asked), event(kind, operation.completed, &value))
}

fn edn_action(action: &Action) -> (&'static str, String) {
    match action {
        Action::Read { key } => (":read", format!("[{key:?} nil]")),
        Action::Write { key, value } => (":write", format!("[{key:?} {value}]")),
        Action::Cas { key, old, new } => (":cas", format!("[{key:?} [{old} {new}]]")),
        Action::Add { value } => (":add", value.to_string()),
        Action::ReadSet => (":read", "nil".to_owned()),
        Action::Txn { micros } => (":txn", edn_micros(micros)),
        Action::Transfer { from, to, amount } => {
            (":transfer", format!("{{:from {from}, :to {to}, :amount {amount}}}"))
        }
        Action::ReadAccounts => (":read", "nil".to_owned()),
        Action::Grant { lease, ttl_secs } => (":grant", format!("[{lease} {ttl_secs}]")),
        Action::KeepAlive { lease } => (":keep-alive", lease.to_string()),
        Action::Revoke { lease } => (":revoke", lease.to_string()),
        Action::Acquire { lock, lease } => (":acquire", format!("[{lock:?} {lease}]")),
        Action::Release { lock, lease } => (":release", format!("[{lock:?} {lease}]")),
        Action::ReadLock { lock } => (":read", format!("[{lock:?} nil]")),
        Action::Create { key, value } => (":create", format!("[{key:?} {value}]")),
        Action::Update { key, value } => (":update", format!("[{key:?} {value}]")),
        Action::Delete { key } => (":delete", format!("[{key:?}]")),
        Action::List => (":list", "nil".to_owned()),
    }
}

fn edn_answer(action: &Action, value: &Value) -> Option<String> {
    match (action, value) {
        (Action::Read { key }, Value::Register(value)) => Some(format!("[{key:?} {value}]")),
        (_, Value::Set(values)) => Some(format!("#{{{}}}", join(values))),
        (_, Value::Micros(micros)) => Some(edn_micros(micros)),
        (_, Value::Accounts(accounts)) => {
            let entries: Vec<String> =
                accounts.iter().map(|(account, sum)| format!("{account} {sum}")).collect();
            Some(format!("{{{}}}", entries.join(", ")))
        }
        (Action::KeepAlive { lease }, Value::Alive(alive)) => Some(format!("[{lease} {alive}]")),
        (Action::ReadLock { lock }, Value::Holder(holder)) => {
            Some(format!("[{lock:?} {}]", holder.map_or("nil".to_owned(), |lease| lease.to_string())))
        }
        (_, Value::Objects(objects)) => {
            let entry =
                |object: &Object| format!("{:?} [{} {}]", object.key, object.value, object.mod_revision);
            Some(format!("{{{}}}", objects.iter().map(entry).collect::<Vec<_>>().join(", ")))
        }
        _ => None,
    }
}

fn edn_micros(micros: &[Micro]) -> String {
    let parts: Vec<String> = micros
        .iter()
        .map(|micro| match micro {
            Micro::Append { key, value } => format!("[:append {key:?} {value}]"),
            Micro::Read { key, values: None } => format!("[:r {key:?} nil]"),
            Micro::Read { key, values: Some(values) } => format!("[:r {key:?} [{}]]", join(values)),
            Micro::Put { key, value } => format!("[:w {key:?} {value}]"),
            Micro::Get { key, found } => {
                let value = found.and_then(|version| version.value);
                format!("[:r {key:?} {}]", value.map_or("nil".to_owned(), |value| value.to_string()))
            }
        })
        .collect();
    format!("[{}]", parts.join(" "))
}

fn join(values: &[i64]) -> String {
    values.iter().map(i64::to_string).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;

    #[test]
    fn edn_is_jepsens() {
        expect_test::expect![[r#"
            [{:type :invoke, :f :write, :process 0, :time 1, :value ["k" 3]}
             {:type :invoke, :f :read, :process 1, :time 2, :value ["k" nil]}
             {:type :invoke, :f :add, :process 2, :time 3, :value 4}
             {:type :ok, :f :read, :process 1, :time 4, :value ["k" 3]}
             {:type :ok, :f :write, :process 0, :time 5, :value ["k" 3]}
             {:type :invoke, :f :txn, :process 3, :time 6, :value [[:append "x" 1] [:r "x" [1 2]]]}
             {:type :ok, :f :txn, :process 3, :time 8, :value [[:append "x" 1] [:r "x" [1 2]]]}
             {:type :info, :f :add, :process 2, :time 9, :value 4}
             {:type :invoke, :f :add, :process 6, :time 10, :value 5}
             {:type :ok, :f :add, :process 6, :time 11, :value 5}
             {:type :invoke, :f :read, :process 0, :time 12, :value nil}
             {:type :ok, :f :read, :process 0, :time 13, :value {0 90, 1 110}}]
        "#]]
        .assert_eq(&sample().to_edn());
    }
}
