//! Command lines as upstream's installers write them.

use super::*;

fn parse(flags: &str) -> Result<Args, clap::Error> {
    Args::from_flags(flags.split_whitespace().map(str::to_owned))
}

#[test]
fn flags_are_upstreams() {
    let flags = "--etcd-servers=http://a:1,http://b:2 --secure-port 7443 --authorization-mode=Node,RBAC \
         --enable-bootstrap-token-auth --service-cluster-ip-range=10.96.0.0/12 --etcd-compaction-interval=0";
    let args = parse(flags).expect("flags");
    assert_eq!((args.etcd_servers.len(), args.secure_port, args.authorization_mode.len()), (2, 7443, 2));
    assert!(args.enable_bootstrap_token_auth && args.etcd_compaction_interval.is_zero());
}

/// As kubeadm, kops and k3s start kube-apiserver.
const MANIFESTS: [(&str, &[&str]); 3] = [
    (
        "--advertise-address=192.0.2.1 --allow-privileged=true --authorization-mode=Node,RBAC \
         --client-ca-file=/pki/ca.crt --enable-admission-plugins=NodeRestriction --enable-bootstrap-token-auth=true \
         --etcd-cafile=/pki/etcd/ca.crt --etcd-certfile=/pki/etcd.crt --etcd-keyfile=/pki/etcd.key \
         --etcd-servers=https://127.0.0.1:2379 --kubelet-client-certificate=/pki/k.crt \
         --kubelet-client-key=/pki/k.key --kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname \
         --proxy-client-cert-file=/pki/f.crt --proxy-client-key-file=/pki/f.key \
         --requestheader-allowed-names=front-proxy-client --requestheader-client-ca-file=/pki/f-ca.crt \
         --requestheader-extra-headers-prefix=X-Remote-Extra- --requestheader-group-headers=X-Remote-Group \
         --requestheader-username-headers=X-Remote-User --runtime-config= --secure-port=6443 \
         --service-account-issuer=https://kubernetes.default.svc.cluster.local \
         --service-account-key-file=/pki/sa.pub --service-account-signing-key-file=/pki/sa.key \
         --service-cluster-ip-range=10.96.0.0/12 --tls-cert-file=/pki/a.crt --tls-private-key-file=/pki/a.key",
        &[],
    ),
    (
        "--allow-privileged=true --anonymous-auth=false --api-audiences=kubernetes.svc.default \
         --authorization-mode=Node,RBAC --bind-address=0.0.0.0 --client-ca-file=/srv/ca.crt \
         --enable-admission-plugins=DefaultStorageClass,DefaultTolerationSeconds,LimitRanger,MutatingAdmissionWebhook,NamespaceLifecycle,NodeRestriction,ResourceQuota,RuntimeClass,ServiceAccount,ValidatingAdmissionPolicy,ValidatingAdmissionWebhook \
         --etcd-servers=https://127.0.0.1:4001 --etcd-servers-overrides=/events#https://127.0.0.1:4002 \
         --feature-gates=InTreePluginAWSUnregister=true --profiling=false --proxy-client-cert-file=/srv/p.crt \
         --requestheader-uid-headers=X-Remote-Uid --secure-port=443 --storage-backend=etcd3 \
         --service-account-jwks-uri=https://kubernetes.default/openid/v1/jwks --tls-min-version=VersionTLS12 \
         --audit-log-path=/var/log/audit.log --audit-policy-file=/srv/audit.yaml --audit-log-maxage=10 --v=2",
        &["audit-log-path", "audit-policy-file", "audit-log-maxage"],
    ),
    (
        "--advertise-address=192.0.2.1 --anonymous-auth=false --bind-address=127.0.0.1 --cert-dir=/k3s/tls \
         --egress-selector-config-file=/k3s/egress.yaml --enable-aggregator-routing=true \
         --etcd-servers=unix:///k3s/kine.sock --kubelet-certificate-authority=/k3s/ca.crt --profiling=false \
         --secure-port=6444 --service-node-port-range=30000-32767 --storage-backend=etcd3 \
         --tls-cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
        &["egress-selector-config-file", "enable-aggregator-routing"],
    ),
];

#[test]
fn manifests_written_for_upstream_start_this() {
    for (flags, inert) in MANIFESTS {
        let args = parse(flags).unwrap_or_else(|error| panic!("{flags}: {error}"));
        let mut expected = inert.to_vec();
        let mut found = args.inert.names();
        expected.sort_unstable();
        found.sort_unstable();
        assert_eq!((found, args.refused.names()), (expected, Vec::new()));
    }
}

#[test]
fn what_would_stay_open_is_refused() {
    for (flags, names) in [
        ("--encryption-provider-config=/x", &["encryption-provider-config"][..]),
        ("--authorization-config /x", &["authorization-config"]),
    ] {
        assert_eq!(parse(flags).expect("known flags").refused.names(), names);
    }
    for wrong in
        ["--etcd-prefix=/elsewhere", "--storage-backend=etcd2", "--tls-min-version=VersionTLS14", "--no-such"]
    {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}

/// A flag that says where data lies is followed or refused.
#[tokio::test]
async fn stores_of_their_own_are_for_built_in_resources() {
    let check = |flag: &str, expected: Result<&[(&str, &str)], &str>| {
        let args = parse(&format!("--etcd-servers-overrides={flag}")).expect("a flag");
        match (args.elsewhere(), expected) {
            (Ok(stores), Ok(names)) => {
                let found = stores.iter().flat_map(|s| &s.resources).map(|(g, r)| (g.as_str(), r.as_str()));
                assert_eq!(found.collect::<Vec<_>>(), names, "{flag}");
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{flag}: {error}"),
            (found, _) => panic!("{flag}: {:?}", found.map(|stores| stores.len())),
        }
    };
    check("", Ok(&[]));
    check("/events#https://127.0.0.1:4002", Ok(&[("", "events")]));
    check(
        "/pods#http://a:1;http://b:1,apps/deployments#http://a:1",
        Ok(&[("", "pods"), ("apps", "deployments")]),
    );
    check("events.k8s.io/events#http://a:1", Err("stored as events.k8s.io/events"));
    check("example.com/widgets#http://a:1", Err("example.com/widgets"));
    check("pods#http://a:1", Err("group/resource#servers"));
}
