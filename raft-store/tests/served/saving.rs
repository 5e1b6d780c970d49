//! `snapshot save` where users are required.

use std::os::unix::fs::PermissionsExt;

use proto::etcdserverpb::{
    AuthEnableRequest, AuthUserAddRequest, AuthUserGrantRoleRequest, auth_client::AuthClient,
};
use raft_store::backup::{self, SaveOptions};

use crate::listening::Listening;

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_saved_by_root_alone_once_users_are_required() {
    let listening = Listening::start(|config| config.bcrypt_cost = 4).await;
    let mut auth = AuthClient::new(listening.channel().await);
    for name in ["root", "ann"] {
        let (name, password) = (name.to_owned(), "secret".to_owned());
        auth.user_add(AuthUserAddRequest { name, password, ..Default::default() }).await.unwrap();
    }
    let root = AuthUserGrantRoleRequest { user: "root".into(), role: "root".into() };
    auth.user_grant_role(root).await.unwrap();
    auth.auth_enable(AuthEnableRequest {}).await.unwrap();

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("snapshot.db");
    let cases = [
        (None, "etcdserver: user name is empty"),
        (Some("root"), "--user is name:password"),
        (Some("root:wrong"), "etcdserver: authentication failed, invalid user ID or password"),
        (Some("ann:secret"), "etcdserver: permission denied"),
    ];
    let options = |user: Option<&str>| SaveOptions {
        endpoint: listening.url.clone(),
        user: user.map(str::to_owned),
        ..SaveOptions::default()
    };
    for (user, refusal) in cases {
        let refused = backup::save(&options(user), &file).await.expect_err("refused");
        assert_eq!(refused.text(), refusal, "{user:?}");
        assert!(!file.exists(), "nothing half done under the file's name");
    }
    let size = backup::save(&options(Some("root:secret")), &file).await.unwrap();
    assert_eq!(backup::status(&file).unwrap().size, size);
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "a snapshot is its owner's alone");
    drop(auth);
    listening.member.shutdown().await;
}
