//! Tokens, status, kubeconfig, completion and help.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};

use super::beside_others;
use super::common::{READY, Server, run};

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_looks_around() {
    let _machine = beside_others().await;
    let root = tempfile::tempdir().expect("a folder");
    let mut servers: Vec<Server> =
        (1..=3).map(|host| Server::new(root.path(), [127, 77, 14, host].into(), host)).collect();
    servers[0].start(&["--init".to_owned()]);
    servers[0].ready(READY).await;
    for index in [1, 2] {
        let token = format!("--token={}", servers[0].token("server"));
        servers[index].start(&[token]);
        servers[index].ready(READY).await;
    }
    for server in &servers {
        knows_all(server).await;
    }
    tokens(&servers);
    status(&mut servers);
    kubeconfig(&servers, root.path()).await;
}

/// Waits until the server, which looks for the others every few seconds, remembers all three.
async fn knows_all(server: &Server) {
    let deadline = Instant::now() + READY;
    loop {
        let state = std::fs::read_to_string(server.dir.join("state.json")).expect("a state");
        let state: serde_json::Value = serde_json::from_str(&state).expect("JSON");
        if state["servers"].as_object().is_some_and(|all| all.len() == 3) {
            return;
        }
        assert!(Instant::now() < deadline, "{} does not know the others: {state}", server.name);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn tokens(servers: &[Server]) {
    let made = servers[1].command(&["token", "create", "--ttl=30m"]).succeeded();
    assert!(made.starts_with("qd1.agent."), "{made}");
    let content = made.trim().rsplit('.').next().expect("a part");
    let content = base64(content);
    for server in ["127.77.14.1:6444", "127.77.14.2:6444", "127.77.14.3:6444"] {
        assert!(content.contains(server), "{content} lacks {server}");
    }
    let id = content.split(r#""secret":""#).nth(1).and_then(|rest| rest.split('.').next()).expect("an id");
    assert!(servers[0].command(&["token", "list"]).succeeded().contains(id));
    servers[0].command(&["token", "delete", id]).succeeded();
    assert!(!servers[0].command(&["token", "list"]).succeeded().contains(id));
    servers[0].command(&["token", "delete", id]).refused("there is no agent token").refused("token list");
    servers[0].command(&["token", "create", "--ttl=tomorrow"]).refused("write it like 24h");
    let made = servers[2].command(&["token", "create", "--role=server"]).succeeded();
    assert!(made.starts_with("qd1.server."), "{made}");
}

fn base64(text: &str) -> String {
    use ::base64::Engine;
    let bytes = ::base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).expect("base64");
    String::from_utf8(bytes).expect("text")
}

fn status(servers: &mut [Server]) {
    let table = servers[1].healthy_status(&[]);
    assert_eq!((table.matches("leader").count(), table.matches("follower").count()), (1, 2), "{table}");
    assert!(table.contains(env!("CARGO_PKG_VERSION")) && table.contains("certificates"), "{table}");
    let json = servers[1].healthy_status(&["--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["servers"].as_array().map(Vec::len), Some(3), "{json}");
    // From the directory of a server that is down, another answers; the exit status says that not all is well.
    servers[2].kill();
    let outcome = servers[2].command(&["status"]);
    outcome.refused("not healthy: s3").refused("mend:");
}

async fn kubeconfig(servers: &[Server], root: &std::path::Path) {
    let file = root.join("kubeconfig");
    servers[0].command(&["kubeconfig", "-o", file.to_str().expect("a path")]).succeeded();
    let config = Kubeconfig::read_from(&file).expect("a kubeconfig");
    assert_eq!(config.contexts.len(), 3);
    for context in ["quarterdeck", "quarterdeck-s2"] {
        let options = KubeConfigOptions { context: Some(context.to_owned()), ..Default::default() };
        let config = kube::Config::from_custom_kubeconfig(config.clone(), &options).await.expect("a context");
        let client = kube::Client::try_from(config).expect("a client");
        let namespaces: Api<Namespace> = Api::all(client);
        assert!(namespaces.list(&ListParams::default()).await.expect("a list").items.len() > 3);
    }
}

#[test]
fn the_command_line_teaches() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completion", shell]).succeeded();
        assert!(script.contains("quarterdeck") && script.contains("drain-server"), "{shell}");
    }
    let help = run(&["--help"]).succeeded();
    for command in
        ["up", "server", "agent", "status", "token", "kubeconfig", "backup", "restore", "drain-server"]
    {
        assert!(help.contains(&format!("\n  {command} ")), "{help} lacks {command}");
        let own = run(&[command, "--help"]).succeeded();
        assert!(
            own.lines().next().is_some_and(|line| line.len() > 20),
            "{command} does not say what it does"
        );
    }
    assert!(run(&["server", "--help"]).succeeded().contains("QUARTERDECK_TOKEN"), "the environment is named");
}
