#!/usr/bin/env bash
# A tour of the controllers' promises with kubectl: each step asks for something and waits until it is so.
# Needs a control plane (any API server, these controllers) and nodes whose pods run and whose jobs' pods end;
# quarterdeck/tests/tour has such nodes, and takes this tour with them.
# usage: KUBECONFIG=... controllers/tour.sh [step...]      exit status: the number of promises not kept
# TOUR_NAMESPACE (default tour), TOUR_SILENCE (a folder where a file dead-NODE silences a node), TOUR_PATIENCE (waits
# are so many times as long, default 1).
set -u
NS=${TOUR_NAMESPACE:-tour}
failed=0 kept=0
k() { kubectl -n "$NS" "$@"; }

# until <what> <seconds> <expected> <command...>: waits until the command prints what is expected.
until_is() {
  local what=$1 secs=$2 expected=$3 got='' end; shift 3
  end=$((SECONDS + secs * ${TOUR_PATIENCE:-1}))
  while :; do
    got=$("$@" 2>&1)
    [ "$got" = "$expected" ] && { printf 'kept    %s\n' "$what"; kept=$((kept + 1)); return 0; }
    [ $SECONDS -ge $end ] && break
    sleep 0.3
  done
  printf 'BROKEN  %s: expected %q, got %q\n' "$what" "$expected" "$got"
  failed=$((failed + 1))
}
field() { k get "$1" "$2" -o "jsonpath=$3"; }
count() { k get "$@" --no-headers --ignore-not-found 2>/dev/null | grep -c . ; }
count_gone() { [ "$(count "$@")" = 0 ] && echo 0; }

namespace_gets_its_own() {
  kubectl create namespace "$NS" >/dev/null
  until_is 'a namespace gets its service account' 10 default field serviceaccount default '{.metadata.name}'
  until_is 'a namespace gets the root certificate' 10 kube-root-ca.crt field configmap kube-root-ca.crt '{.metadata.name}'
}
deployment_rolls() {
  k create deployment web --image=image:1 --replicas=6 >/dev/null
  until_is 'a deployment runs its replicas' 30 6 field deployment web '{.status.availableReplicas}'
  k set image deployment/web image=image:2 >/dev/null
  until_is 'a deployment rolls over' 60 '6 6' field deployment web '{.status.updatedReplicas} {.status.availableReplicas}'
  until_is 'a rollout reports success' 10 'deployment "web" successfully rolled out' k rollout status deployment/web
  k rollout undo deployment/web >/dev/null
  until_is 'a rollout is undone' 60 image:1 bash -c "kubectl -n $NS get pods -l app=web --field-selector=status.phase=Running -o jsonpath='{.items[*].spec.containers[0].image}' | tr ' ' '\n' | sort -u | tr -d '\n'"
  until_is 'revisions are counted' 10 3 field deployment web '{.metadata.annotations.deployment\.kubernetes\.io/revision}'
  k scale deployment/web --replicas=2 >/dev/null
  until_is 'a deployment is scaled down' 30 2 field deployment web '{.status.replicas}'
  k rollout pause deployment/web >/dev/null; k set image deployment/web image=image:9 >/dev/null; sleep 1
  until_is 'a paused deployment does not roll' 5 image:1 bash -c "kubectl -n $NS get pods -l app=web -o jsonpath='{.items[0].spec.containers[0].image}'"
  k rollout resume deployment/web >/dev/null
}
service_finds_pods() {
  k expose deployment web --port=80 >/dev/null
  until_is 'a service finds its pods (slices)' 20 '2' bash -c "kubectl -n $NS get endpointslices -l kubernetes.io/service-name=web -o jsonpath='{.items[*].endpoints[*].conditions.ready}' | wc -w | tr -d ' '"
  until_is 'a service finds its pods (endpoints)' 20 '2' bash -c "kubectl -n $NS get endpoints web -o jsonpath='{.subsets[*].addresses[*].ip}' 2>/dev/null | wc -w | tr -d ' '"
}
replica_sets_adopt() {
  k create -f - >/dev/null <<Y
{"apiVersion":"v1","kind":"Pod","metadata":{"name":"stray","labels":{"app":"adopting"}},"spec":{"containers":[{"name":"c","image":"i"}]}}
Y
  sleep 1
  k create -f - >/dev/null <<Y
{"apiVersion":"apps/v1","kind":"ReplicaSet","metadata":{"name":"adopting"},"spec":{"replicas":2,"selector":{"matchLabels":{"app":"adopting"}},"template":{"metadata":{"labels":{"app":"adopting"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}
Y
  until_is 'a replica set adopts a stray pod' 20 adopting field pod stray '{.metadata.ownerReferences[0].name}'
  until_is 'and makes only what is missing' 20 2 bash -c "kubectl -n $NS get pods -l app=adopting --no-headers | wc -l | tr -d ' '"
  k label pod stray app=free --overwrite >/dev/null
  until_is 'a pod that no longer matches is released' 20 '' field pod stray '{.metadata.ownerReferences[*].name}'
}
jobs_finish() {
  k create -f - >/dev/null <<Y
{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"work"},"spec":{"completions":5,"parallelism":2,"completionMode":"Indexed","template":{"spec":{"restartPolicy":"Never","containers":[{"name":"c","image":"i"}]}}}}
{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"fails"},"spec":{"backoffLimit":0,"template":{"metadata":{"labels":{"fake/exit":"3"}},"spec":{"restartPolicy":"Never","containers":[{"name":"c","image":"i"}]}}}}
{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"brief"},"spec":{"ttlSecondsAfterFinished":1,"template":{"spec":{"restartPolicy":"Never","containers":[{"name":"c","image":"i"}]}}}}
{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"held"},"spec":{"suspend":true,"template":{"spec":{"restartPolicy":"Never","containers":[{"name":"c","image":"i"}]}}}}
Y
  until_is 'an indexed job completes' 60 '5 0-4' field job work '{.status.succeeded} {.status.completedIndexes}'
  until_is 'a job is called complete' 20 'SuccessCriteriaMet Complete' field job work '{.status.conditions[*].type}'
  until_is 'a job fails at its limit' 30 'BackoffLimitExceeded BackoffLimitExceeded' field job fails '{.status.conditions[*].reason}'
  until_is 'pods of finished jobs are released' 10 '' bash -c "kubectl -n $NS get pods -l batch.kubernetes.io/job-name=work -o jsonpath='{.items[*].metadata.finalizers}'"
  until_is 'a finished job goes after its time' 30 0 count job brief
  until_is 'a suspended job waits' 5 Suspended field job held '{.status.conditions[0].type}'
  k patch job held --type=merge -p '{"spec":{"suspend":false}}' >/dev/null
  until_is 'a resumed job completes' 30 1 field job held '{.status.succeeded}'
}
cron_jobs_tick() {
  k create cronjob tick --image=i --schedule='* * * * *' >/dev/null
  until_is 'a cron job starts on time' 75 yes bash -c "[ \"\$(kubectl -n $NS get jobs -o jsonpath='{.items[*].metadata.ownerReferences[0].name}' | tr ' ' '\n' | grep -c tick)\" -ge 1 ] && echo yes"
  k delete cronjob tick >/dev/null
}
stateful_sets_keep_order() {
  k create -f - >/dev/null <<Y
{"apiVersion":"apps/v1","kind":"StatefulSet","metadata":{"name":"db"},"spec":{"replicas":3,"serviceName":"db","selector":{"matchLabels":{"app":"db"}},"template":{"metadata":{"labels":{"app":"db"}},"spec":{"containers":[{"name":"c","image":"i:1"}]}}}}
Y
  until_is 'a stateful set starts its pods' 40 3 field statefulset db '{.status.availableReplicas}'
  until_is 'pods have names of their own' 5 'db-0 db-1 db-2' bash -c "kubectl -n $NS get pods -l app=db -o jsonpath='{.items[*].metadata.name}'"
  k patch statefulset db --type=merge -p '{"spec":{"updateStrategy":{"rollingUpdate":{"partition":2}}}}' >/dev/null
  k set image statefulset/db c=i:2 >/dev/null
  until_is 'a partition holds the rest back' 40 'i:1 i:1 i:2' bash -c "kubectl -n $NS get pods -l app=db -o jsonpath='{.items[*].spec.containers[0].image}'"
  k scale statefulset db --replicas=1 >/dev/null
  until_is 'the last pods go first' 40 db-0 bash -c "kubectl -n $NS get pods -l app=db -o jsonpath='{.items[*].metadata.name}'"
}
daemon_sets_cover_nodes() {
  local nodes; nodes=$(kubectl get nodes --no-headers | grep -c .)
  k create -f - >/dev/null <<Y
{"apiVersion":"apps/v1","kind":"DaemonSet","metadata":{"name":"agent"},"spec":{"selector":{"matchLabels":{"app":"agent"}},"template":{"metadata":{"labels":{"app":"agent"}},"spec":{"containers":[{"name":"c","image":"i:1"}]}}}}
Y
  until_is 'a daemon set covers every node' 40 "$nodes" field daemonset agent '{.status.numberAvailable}'
  k set image daemonset/agent c=i:2 >/dev/null
  until_is 'a daemon set rolls over' 90 "$nodes $nodes" field daemonset agent '{.status.updatedNumberScheduled} {.status.numberAvailable}'
}
quotas_count() {
  k create quota all --hard=pods=500,count/configmaps=50,secrets=10 >/dev/null
  k create secret generic s --from-literal=a=b >/dev/null
  until_is 'a quota counts' 20 1 field quota all '{.status.used.secrets}'
  k delete secret s >/dev/null
  until_is 'a quota gives back' 20 0 field quota all '{.status.used.secrets}'
}
budgets_allow() {
  k create poddisruptionbudget web --selector=app=web --min-available=1 >/dev/null
  until_is 'a budget tells what may be disrupted' 20 '2 1' field pdb web '{.status.currentHealthy} {.status.disruptionsAllowed}'
}
owners_take_dependents_along() {
  k delete deployment web --cascade=foreground --wait=false --ignore-not-found >/dev/null
  until_is 'foreground deletion takes replica sets along' 40 0 count_gone replicasets -l app=web
  until_is 'and their pods' 40 0 count_gone pods -l app=web
  k delete replicaset adopting --cascade=orphan >/dev/null
  sleep 1
  until_is 'orphans stay' 10 2 bash -c "kubectl -n $NS get pods -l app=adopting --no-headers | wc -l | tr -d ' '"
  k delete statefulset db --ignore-not-found >/dev/null
  until_is 'background deletion takes pods along' 40 0 count_gone pods -l app=db
}
custom_owners_count() {
  kubectl apply -f - >/dev/null <<Y
{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"owners.tour.example.com"},"spec":{"group":"tour.example.com","scope":"Namespaced","names":{"plural":"owners","singular":"owner","kind":"Owner"},"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object"}}}]}}
Y
  kubectl wait --for=condition=Established crd/owners.tour.example.com --timeout="$((20 * ${TOUR_PATIENCE:-1}))s" >/dev/null; sleep 1
  k create -f - >/dev/null <<Y
{"apiVersion":"tour.example.com/v1","kind":"Owner","metadata":{"name":"o"}}
Y
  local uid; uid=$(k get owner o -o 'jsonpath={.metadata.uid}')
  k create -f - >/dev/null <<Y
{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"owned","ownerReferences":[{"apiVersion":"tour.example.com/v1","kind":"Owner","name":"o","uid":"$uid"}]}}
Y
  k delete owner o >/dev/null
  until_is 'a custom owner takes its dependents along' 60 0 count configmap owned
  kubectl delete crd owners.tour.example.com >/dev/null
}
roles_aggregate() {
  kubectl create clusterrole tour-part --verb=get --resource=pods >/dev/null; kubectl label clusterrole tour-part tour=yes >/dev/null
  kubectl create clusterrole tour-all --aggregation-rule=tour=yes >/dev/null
  until_is 'a cluster role is made of others' 10 pods bash -c "kubectl get clusterrole tour-all -o jsonpath='{.rules[0].resources[0]}'"
  kubectl delete clusterrole tour-part tour-all >/dev/null
}
tokens_are_filled() {
  k create -f - >/dev/null <<Y
{"apiVersion":"v1","kind":"Secret","type":"kubernetes.io/service-account-token","metadata":{"name":"token","annotations":{"kubernetes.io/service-account.name":"default"}}}
Y
  until_is 'a token secret is filled' 10 'yes' bash -c "[ -n \"\$(kubectl -n $NS get secret token -o jsonpath='{.data.token}')\" ] && echo yes"
}
volumes_bind_and_are_released() {
  kubectl create -f - >/dev/null <<Y
{"apiVersion":"v1","kind":"PersistentVolume","metadata":{"name":"$NS-disk"},"spec":{"capacity":{"storage":"1Gi"},"accessModes":["ReadWriteOnce"],"storageClassName":"$NS-manual","hostPath":{"path":"/tmp/$NS"}}}
Y
  k create -f - >/dev/null <<Y
{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"disk"},"spec":{"storageClassName":"$NS-manual","accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"500Mi"}}}}
Y
  until_is 'a claim finds its volume' 20 "Bound $NS-disk" field pvc disk '{.status.phase} {.spec.volumeName}'
  until_is 'a bound volume is protected' 10 kubernetes.io/pv-protection field pv "$NS-disk" '{.metadata.finalizers[0]}'
  k run reader --image=i --overrides='{"spec":{"volumes":[{"name":"d","persistentVolumeClaim":{"claimName":"disk"}}]}}' >/dev/null
  until_is 'its pod runs' 20 Running field pod reader '{.status.phase}'
  k delete pvc disk --wait=false >/dev/null; sleep 1
  until_is 'a claim in use stays' 5 disk field pvc disk '{.metadata.name}'
  k delete pod reader --wait=false >/dev/null
  until_is 'and goes with its last pod' 30 0 count pvc disk
  until_is 'its volume is released' 20 Released field pv "$NS-disk" '{.status.phase}'
  kubectl delete pv "$NS-disk" >/dev/null
}
local_path_provisions() {
  kubectl get storageclass local-path >/dev/null 2>&1 || { echo 'skipped local-path: no such class'; return; }
  k create -f - >/dev/null <<Y
{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"local"},"spec":{"storageClassName":"local-path","accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}}}}
Y
  sleep 1
  until_is 'a claim waits for its first pod' 10 Pending field pvc local '{.status.phase}'
  k run writer --image=i --overrides='{"spec":{"volumes":[{"name":"d","persistentVolumeClaim":{"claimName":"local"}}]}}' >/dev/null
  until_is 'a volume is made on the node of the pod' 40 Bound field pvc local '{.status.phase}'
  until_is 'its pod runs' 40 Running field pod writer '{.status.phase}'
  local pv node; pv=$(field pvc local '{.spec.volumeName}'); node=$(field pod writer '{.spec.nodeName}')
  until_is 'and stays there' 10 "$node" field pv "$pv" '{.spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[0].values[0]}'
  k delete pod writer --wait=false >/dev/null; k delete pvc local --wait=false >/dev/null
  until_is 'a released volume is removed from its node' 60 '' kubectl get pv "$pv" --ignore-not-found -o name
}
pods_get_volumes_of_their_own() {
  k create -f - >/dev/null <<Y
{"apiVersion":"v1","kind":"Pod","metadata":{"name":"own"},"spec":{"containers":[{"name":"c","image":"i"}],"volumes":[{"name":"d","ephemeral":{"volumeClaimTemplate":{"spec":{"storageClassName":"none","accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}}}}}}]}}
Y
  until_is 'a pod gets a claim of its own' 10 own field pvc own-d '{.metadata.ownerReferences[0].name}'
  k delete pod own --wait=false >/dev/null
  until_is 'which goes with it' 30 0 count pvc own-d
}
balancers_get_addresses() {
  k create service loadbalancer lb --tcp=8099:80 >/dev/null
  local address; address=$(kubectl get nodes -o 'jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}')
  [ -n "$address" ] || { echo 'skipped load balancers: the nodes have no addresses'; return; }
  until_is 'a load balancer gets the addresses of the nodes' 15 yes bash -c "kubectl -n $NS get service lb -o jsonpath='{.status.loadBalancer.ingress[*].ip}' | grep -qw '$address' && echo yes"
  k delete service lb >/dev/null
}
endpoints_are_mirrored() {
  k create -f - >/dev/null <<Y
{"apiVersion":"v1","kind":"Service","metadata":{"name":"outside"},"spec":{"ports":[{"port":80}]}}
Y
  k create -f - >/dev/null 2>&1 <<Y
{"apiVersion":"v1","kind":"Endpoints","metadata":{"name":"outside"},"subsets":[{"addresses":[{"ip":"192.0.2.7"}],"ports":[{"port":80}]}]}
Y
  until_is 'endpoints written by hand are mirrored' 15 192.0.2.7 bash -c "kubectl -n $NS get endpointslices -l kubernetes.io/service-name=outside -o jsonpath='{.items[*].endpoints[*].addresses[0]}'"
}
certificates_are_signed() {
  local dir; dir=$(mktemp -d)
  openssl req -new -newkey rsa:2048 -nodes -keyout "$dir/key" -out "$dir/csr" -subj "/CN=$NS-user" 2>/dev/null
  kubectl create -f - >/dev/null <<Y
{"apiVersion":"certificates.k8s.io/v1","kind":"CertificateSigningRequest","metadata":{"name":"$NS-user"},"spec":{"signerName":"kubernetes.io/kube-apiserver-client","usages":["client auth"],"request":"$(base64 -w0 <"$dir/csr")"}}
Y
  kubectl certificate approve "$NS-user" >/dev/null
  until_is 'an approved certificate is signed' 15 yes bash -c "[ -n \"\$(kubectl get csr $NS-user -o jsonpath='{.status.certificate}')\" ] && echo yes"
  kubectl delete csr "$NS-user" >/dev/null; rm -rf "$dir"
}
bootstrap_tokens_expire() {
  kubectl -n kube-system create -f - >/dev/null <<Y
{"apiVersion":"v1","kind":"Secret","type":"bootstrap.kubernetes.io/token","metadata":{"name":"bootstrap-token-tour00"},"stringData":{"token-id":"tour00","token-secret":"0123456789abcdef","usage-bootstrap-signing":"true","expiration":"$(date -u -d '+3 seconds' +%Y-%m-%dT%H:%M:%SZ)"}}
Y
  until_is 'a bootstrap token goes when its time is over' 20 '' kubectl -n kube-system get secret bootstrap-token-tour00 --ignore-not-found -o name
}
dead_nodes_lose_their_pods() {
  [ -n "${TOUR_SILENCE:-}" ] || { echo 'skipped dead nodes: TOUR_SILENCE names no folder that silences nodes'; return; }
  k create -f - >/dev/null <<Y
{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"moves"},"spec":{"replicas":1,"selector":{"matchLabels":{"app":"moves"}},"template":{"metadata":{"labels":{"app":"moves"}},"spec":{"containers":[{"name":"c","image":"i"}],"tolerations":[{"key":"node.kubernetes.io/unreachable","operator":"Exists","effect":"NoExecute","tolerationSeconds":2}]}}}}
Y
  until_is 'a deployment runs' 20 1 field deployment moves '{.status.availableReplicas}'
  local node; node=$(k get pods -l app=moves -o 'jsonpath={.items[0].spec.nodeName}')
  touch "$TOUR_SILENCE/dead-$node"
  until_is 'a silent node is tainted' 90 yes bash -c "kubectl get node $node -o jsonpath='{.spec.taints[*].key}' | grep -q unreachable && echo yes"
  until_is 'its pods are replaced elsewhere' 60 yes bash -c "kubectl -n $NS get pods -l app=moves -o jsonpath='{range .items[*]}{.spec.nodeName} {.status.phase} {end}' | tr ' ' '\n' | grep -v '^$node\$' | grep -q '^[a-z].*[0-9]' && echo yes"
  rm -f "$TOUR_SILENCE/dead-$node"
  until_is 'a node that speaks again is taken back' 60 '' bash -c "kubectl get node $node -o jsonpath='{.spec.taints[*].key}' | grep -o unreachable"
}
namespace_goes() {
  kubectl delete namespace "$NS" --wait=false >/dev/null
  until_is 'a namespace goes with all it holds' 60 '' kubectl get namespace "$NS" --ignore-not-found -o name
}
steps="namespace_gets_its_own deployment_rolls service_finds_pods replica_sets_adopt jobs_finish stateful_sets_keep_order
  daemon_sets_cover_nodes quotas_count budgets_allow roles_aggregate tokens_are_filled cron_jobs_tick
  volumes_bind_and_are_released local_path_provisions pods_get_volumes_of_their_own balancers_get_addresses
  endpoints_are_mirrored certificates_are_signed bootstrap_tokens_expire dead_nodes_lose_their_pods
  owners_take_dependents_along custom_owners_count namespace_goes"
for step in ${@:-$steps}; do "$step"; done
echo "$kept kept, $failed broken"
exit $failed
