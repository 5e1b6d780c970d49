//! Users: signed tokens, certificates' names, what of a range may be watched, and whose leases are whose.

use std::{fs, time::Duration};

use futures::StreamExt;
use proto::authpb::{Permission, UserAddOptions, permission::Type};
use proto::etcdserverpb::{
    AlarmRequest, AuthEnableRequest, AuthRoleAddRequest, AuthRoleGrantPermissionRequest, AuthUserAddRequest,
    AuthUserChangePasswordRequest, AuthUserDeleteRequest, AuthUserGrantRoleRequest, AuthenticateRequest,
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
    MemberListRequest, PutRequest, RangeRequest, StatusRequest, WatchCreateRequest, WatchRequest,
    auth_client::AuthClient, cluster_client::ClusterClient, kv_client::KvClient, lease_client::LeaseClient,
    maintenance_client::MaintenanceClient, watch_client::WatchClient, watch_request::RequestUnion,
};
use raft_store::{TlsFiles, auth::TokenSpec};
use tonic::{
    Code, Request, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use crate::{listening::Listening, tls::Authority};

/// Makes root, and ann, who may read and write what begins with `own/`; then everybody must be somebody.
async fn require_users(channel: Channel) {
    let mut auth = AuthClient::new(channel);
    for (user, role) in [("root", "root"), ("ann", "owner")] {
        auth.role_add(AuthRoleAddRequest { name: role.into() }).await.unwrap();
        let add = AuthUserAddRequest { name: user.into(), password: "pw".into(), ..Default::default() };
        auth.user_add(add).await.unwrap();
        let grant = AuthUserGrantRoleRequest { user: user.into(), role: role.into() };
        auth.user_grant_role(grant).await.unwrap();
    }
    let permission =
        Permission { perm_type: Type::Readwrite as i32, key: "own/".into(), range_end: "own0".into() };
    let grant = AuthRoleGrantPermissionRequest { name: "owner".into(), perm: Some(permission) };
    auth.role_grant_permission(grant).await.unwrap();
    auth.auth_enable(AuthEnableRequest {}).await.unwrap();
}

async fn token(channel: Channel, user: &str) -> String {
    let request = AuthenticateRequest { name: user.into(), password: "pw".into() };
    AuthClient::new(channel).authenticate(request).await.unwrap().into_inner().token
}

fn with<T>(token: Option<&str>, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        request.metadata_mut().insert("token", token.parse().unwrap());
    }
    request
}

/// Changes the password of a user, to the same as it happens, as root.
async fn change_password(channel: Channel, user: &str) {
    let root = token(channel.clone(), "root").await;
    let request =
        AuthUserChangePasswordRequest { name: user.into(), password: "pw".into(), ..Default::default() };
    AuthClient::new(channel).user_change_password(with(Some(&root), request)).await.unwrap();
}

async fn puts(channel: Channel, token: Option<&str>, key: &str) -> Result<(), Status> {
    let put = PutRequest { key: key.to_owned().into(), value: "x".into(), ..Default::default() };
    KvClient::new(channel).put(with(token, put)).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn signed_tokens_speak_for_their_user_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let pair = rcgen::KeyPair::generate().unwrap();
    let (private, public, secret) =
        (dir.path().join("key"), dir.path().join("pub"), dir.path().join("secret"));
    fs::write(&private, pair.serialize_pem()).unwrap();
    fs::write(&public, pair.public_key_pem()).unwrap();
    fs::write(&secret, "a secret of some length").unwrap();
    let flags = [
        format!("jwt,pub-key={},priv-key={},sign-method=ES256,ttl=10m", public.display(), private.display()),
        format!("jwt,priv-key={},sign-method=HS256,ttl=10m", secret.display()),
    ];
    for flag in flags {
        let spec = TokenSpec::parse(&flag).unwrap();
        let listening = Listening::start(|config| {
            config.auth_token = spec;
            config.bcrypt_cost = 4;
        })
        .await;
        let channel = listening.channel().await;
        require_users(channel.clone()).await;
        let token = token(channel.clone(), "ann").await;
        assert_eq!(token.matches('.').count(), 2, "{token} is a JWT");
        puts(channel.clone(), Some(&token), "own/a").await.unwrap();
        let elsewhere = puts(channel.clone(), Some(&token), "other").await.unwrap_err();
        assert_eq!(elsewhere.message(), "etcdserver: permission denied");
        let mut forged = token.clone();
        forged.replace_range(token.len() - 6.., "AAAAAA");
        let refused = puts(channel.clone(), Some(&forged), "own/a").await.unwrap_err();
        assert_eq!(
            (refused.code(), refused.message()),
            (Code::Unauthenticated, "etcdserver: invalid auth token")
        );
        let nobody = puts(channel.clone(), None, "own/a").await.unwrap_err();
        assert_eq!(nobody.message(), "etcdserver: user name is empty");
        change_password(channel.clone(), "ann").await;
        let own = RangeRequest { key: "own/a".into(), ..Default::default() };
        let outlived = KvClient::new(channel.clone()).range(with(Some(&token), own)).await.unwrap_err();
        assert_eq!(outlived.message(), "etcdserver: revision of auth store is old", "for reads, too");
        drop(channel);
        listening.member.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificates_name_is_a_user() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let authority = Authority::new();
    authority.write_authority(dir);
    authority.write_leaf(dir, "server", "server");
    authority.write_numbered_leaf(dir, "ann", "ann", 2);
    authority.write_numbered_leaf(dir, "stranger", "stranger", 3);
    let listening = Listening::start(|config| {
        let url = config.listen_client_urls[0].replace("http://", "https://");
        (config.listen_client_urls, config.advertise_client_urls) = (vec![url.clone()], vec![url]);
        config.bcrypt_cost = 4;
        config.client_tls = TlsFiles {
            cert_file: Some(dir.join("server.pem")),
            key_file: Some(dir.join("server.key")),
            trusted_ca_file: Some(dir.join("ca.pem")),
            client_cert_auth: true,
            ..TlsFiles::default()
        };
    })
    .await;
    let url = listening.url.replace("http://", "https://");
    let connect = async |name: &str| {
        let read = |file: String| fs::read_to_string(dir.join(file)).unwrap();
        let identity = Identity::from_pem(read(format!("{name}.pem")), read(format!("{name}.key")));
        let authority = Certificate::from_pem(read("ca.pem".into()));
        let tls = ClientTlsConfig::new().ca_certificate(authority).identity(identity);
        Endpoint::from_shared(url.clone()).unwrap().tls_config(tls).unwrap().connect().await.unwrap()
    };
    let (ann, stranger) = (connect("ann").await, connect("stranger").await);
    require_users(ann.clone()).await;
    puts(ann.clone(), None, "own/a").await.unwrap();
    assert_eq!(puts(ann, None, "other").await.unwrap_err().message(), "etcdserver: permission denied");
    assert!(puts(stranger, None, "own/a").await.is_err(), "a user that is not there");
    listening.member.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_needs_permission_over_its_whole_range() {
    let listening = Listening::start(|config| config.bcrypt_cost = 4).await;
    let channel = listening.channel().await;
    require_users(channel.clone()).await;
    let token = token(channel.clone(), "ann").await;
    let cases: [(&str, &str, bool); 6] = [
        ("own/a", "", true),
        ("own/", "own0", true),
        ("own/", "own1", false),
        ("own", "own0", false),
        ("own/", "\0", false),
        ("other", "", false),
    ];
    for (key, end, allowed) in cases {
        let create = WatchCreateRequest {
            key: key.to_owned().into(),
            range_end: end.to_owned().into(),
            ..Default::default()
        };
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let requests = futures::stream::iter([create]).chain(futures::stream::pending());
        let mut watch = WatchClient::new(channel.clone());
        let mut responses = watch.watch(with(Some(&token), requests)).await.unwrap().into_inner();
        let response = responses.message().await.unwrap().unwrap();
        assert_eq!(!response.canceled, allowed, "{key:?} to {end:?}: {response:?}");
        assert!(allowed || response.cancel_reason.contains("permission denied"), "{response:?}");
        let range = RangeRequest {
            key: key.to_owned().into(),
            range_end: end.to_owned().into(),
            ..Default::default()
        };
        let read = KvClient::new(channel.clone()).range(with(Some(&token), range)).await;
        assert_eq!(read.is_ok(), allowed, "a range needs the same: {key:?} to {end:?}");
    }
    drop(channel);
    listening.member.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_is_made_for_whom_its_stream_speaks_for_now() {
    let listening = Listening::start(|config| config.bcrypt_cost = 4).await;
    let channel = listening.channel().await;
    require_users(channel.clone()).await;
    let ann = token(channel.clone(), "ann").await;
    let create = |start_revision| {
        let create = WatchCreateRequest { key: "own/a".into(), start_revision, ..Default::default() };
        WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
    };
    let (requests, taken) = tokio::sync::mpsc::channel(4);
    let taken = tokio_stream::wrappers::ReceiverStream::new(taken);
    let mut watch = WatchClient::new(channel.clone());
    let mut responses = watch.watch(with(Some(&ann), taken)).await.unwrap().into_inner();
    requests.send(create(0)).await.unwrap();
    assert!(!responses.message().await.unwrap().unwrap().canceled);
    requests.send(create(-5)).await.unwrap();
    let refused = responses.message().await.unwrap().unwrap();
    assert_eq!(refused.cancel_reason, "etcdserver: mvcc: required revision has been compacted");
    // A new password ends the tokens of the old one; the stream lasts.
    change_password(channel.clone(), "ann").await;
    requests.send(create(0)).await.unwrap();
    let refused = responses.message().await.unwrap().unwrap();
    let reason = "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token";
    assert_eq!((refused.canceled, refused.cancel_reason.as_str()), (true, reason));
    drop((channel, watch, requests, responses));
    listening.member.shutdown().await;
}

/// What `caller` is answered to each question about leases, members and alarms: nothing when it may ask.
async fn refusals(channel: &Channel, caller: Option<&str>, lease: i64) -> Vec<(&'static str, String)> {
    let mut leases = LeaseClient::new(channel.clone());
    let (mut maintenance, mut cluster) =
        (MaintenanceClient::new(channel.clone()), ClusterClient::new(channel.clone()));
    let keep = futures::stream::iter([LeaseKeepAliveRequest { id: lease }]);
    let kept = match leases.lease_keep_alive(with(caller, keep)).await {
        Ok(answers) => answers.into_inner().message().await.map(drop),
        Err(status) => Err(status),
    };
    let keys = LeaseTimeToLiveRequest { id: lease, keys: true };
    let time = LeaseTimeToLiveRequest { id: lease, keys: false };
    let answers = [
        ("grant", leases.lease_grant(with(caller, LeaseGrantRequest { ttl: 600, id: 0 })).await.map(drop)),
        ("keep alive", kept),
        ("keys", leases.lease_time_to_live(with(caller, keys)).await.map(drop)),
        ("time", leases.lease_time_to_live(with(caller, time)).await.map(drop)),
        ("list", leases.lease_leases(with(caller, LeaseLeasesRequest {})).await.map(drop)),
        ("members", cluster.member_list(with(caller, MemberListRequest::default())).await.map(drop)),
        ("alarms", maintenance.alarm(with(caller, AlarmRequest::default())).await.map(drop)),
        ("status", maintenance.status(with(caller, StatusRequest {})).await.map(drop)),
        ("revoke", leases.lease_revoke(with(caller, LeaseRevokeRequest { id: lease })).await.map(drop)),
    ];
    let refused =
        |(asked, answer): (_, Result<(), Status>)| Some((asked, answer.err()?.message().to_owned()));
    answers.into_iter().filter_map(refused).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_for_those_who_may_use_their_keys() {
    let listening = Listening::start(|config| config.bcrypt_cost = 4).await;
    let channel = listening.channel().await;
    require_users(channel.clone()).await;
    let (ann, root) = (token(channel.clone(), "ann").await, token(channel.clone(), "root").await);
    let mut leases = LeaseClient::new(channel.clone());
    for (id, key) in [(1, "other"), (2, "own/a")] {
        leases.lease_grant(with(Some(&root), LeaseGrantRequest { ttl: 600, id })).await.unwrap();
        let put = PutRequest { key: key.into(), lease: id, ..Default::default() };
        KvClient::new(channel.clone()).put(with(Some(&root), put)).await.unwrap();
    }
    let all = ["grant", "keep alive", "keys", "time", "list", "members", "alarms", "status", "revoke"];
    let nobody = all.map(|asked| (asked, "etcdserver: user name is empty".to_owned()));
    assert_eq!(refusals(&channel, None, 2).await, nobody);
    let denied = |asked| (asked, "etcdserver: permission denied".to_owned());
    let others = ["keep alive", "keys", "list", "revoke"].map(denied);
    assert_eq!(refusals(&channel, Some(&ann), 1).await, others);
    // The list would also show the other lease.
    assert_eq!(refusals(&channel, Some(&ann), 2).await, [denied("list")]);
    assert_eq!(refusals(&channel, Some(&root), 1).await, []);
    drop((channel, leases));
    listening.member.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_outlives_the_user_whose_password_earned_it() {
    // A password then takes long enough to look at for others to be faster.
    let listening = Listening::start(|config| config.bcrypt_cost = 13).await;
    let channel = listening.channel().await;
    require_users(channel.clone()).await;
    let root = token(channel.clone(), "root").await;
    let mut auth = AuthClient::new(channel.clone());
    let mut earning = auth.clone();
    let earning = tokio::spawn(async move {
        let request = AuthenticateRequest { name: "ann".into(), password: "pw".into() };
        earning.authenticate(request).await
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let name = String::from("ann");
    auth.user_delete(with(Some(&root), AuthUserDeleteRequest { name: name.clone() })).await.unwrap();
    // Another one of the same name.
    let options = Some(UserAddOptions { no_password: true });
    let add = AuthUserAddRequest { name: name.clone(), options, ..Default::default() };
    auth.user_add(with(Some(&root), add)).await.unwrap();
    let grant = AuthUserGrantRoleRequest { user: name, role: "owner".into() };
    auth.user_grant_role(with(Some(&root), grant)).await.unwrap();
    if let Ok(earned) = earning.await.unwrap() {
        let earned = earned.into_inner().token;
        let refused = puts(channel, Some(&earned), "own/a").await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    }
    listening.member.shutdown().await;
}
