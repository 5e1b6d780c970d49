#!/usr/bin/env bash
# Every kubectl command that needs no running container, on a live cluster with a node: kubectl.sh KUBECONFIG
# Each step says what it expects; the first that is not so ends the tour with its command and output.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export KUBECONFIG=${1:?usage: kubectl.sh KUBECONFIG}
work=$(mktemp -d)
ns=tour-$RANDOM
# Leaves nothing behind, whatever happened.
end() {
    kubectl delete namespace "$ns" --wait=false --ignore-not-found >/dev/null 2>&1 || true
    kubectl delete crd gadgets.tour.example.com --wait=false --ignore-not-found >/dev/null 2>&1 || true
    kubectl delete csr tour-csr --ignore-not-found >/dev/null 2>&1 || true
    kubectl delete clusterrole,clusterrolebinding -l tour=kubectl >/dev/null 2>&1 || true
    kubectl delete --wait=false --ignore-not-found -l tour=kubectl \
        "$(kubectl api-resources --namespaced=false --verbs=delete,list -o name | grep -v '^nodes$' | paste -sd,)" >/dev/null 2>&1 || true
    [ -z "${proxy:-}" ] || kill "$proxy" 2>/dev/null || true
    rm -rf "$work"
}
trap end EXIT
steps=0
fail() { echo "kubectl tour: $*" >&2; exit 1; }
k() { kubectl -n "$ns" "$@"; }
# expect TEXT COMMAND…: succeeds and prints TEXT (an extended regular expression).
expect() {
    local want=$1 got; shift
    got=$("$@" 2>&1) || fail "failed: $* ($got)"
    grep -Eq -- "$want" <<<"$got" || fail "$*: expected /$want/, got: $got"
    steps=$((steps + 1))
}
# refuse TEXT COMMAND…: fails and prints TEXT.
refuse() {
    local want=$1 got; shift
    if got=$("$@" 2>&1); then fail "should have failed: $* ($got)"; fi
    grep -Eq -- "$want" <<<"$got" || fail "$*: expected /$want/, got: $got"
    steps=$((steps + 1))
}

# A new key's request for a certificate of jane's.
request() { openssl req -new -newkey rsa:2048 -nodes -keyout "$work/key" -subj /CN=jane 2>/dev/null; }

echo "- the cluster"
expect 'Server Version: v1\.36' kubectl version
expect 'is running at https' kubectl cluster-info
expect '^apps/v1$' kubectl api-versions
expect 'deployments +deploy +apps/v1 +true +Deployment' kubectl api-resources
expect 'pods/eviction|^pods$' kubectl api-resources -o name --verbs=list --namespaced
expect 'v1\.apps +Local +True' kubectl get apiservices
expect 'ok' kubectl get --raw /readyz
expect 'paths' kubectl get --raw /openapi/v3
expect 'Ready' kubectl get nodes
expect '"kind": "NodeList"' kubectl cluster-info dump --namespaces=kube-node-lease
expect 'current-context' kubectl config view
expect 'complete -o default' kubectl completion bash

echo "- create"
expect 'created' kubectl create namespace "$ns"
expect 'created \(dry run\)' k create configmap dry --from-literal=a=1 --dry-run=client
expect 'created \(server dry run\)' k create configmap dry --from-literal=a=1 --dry-run=server
refuse 'not found' k get configmap dry
expect 'created' k create configmap settings --from-literal=colour=blue --from-literal=size=1
expect 'created' k create secret generic login --from-literal=password=x
expect 'created' k create secret docker-registry pull --docker-username=u --docker-password=p
expect 'created' k create serviceaccount robot
expect 'created' k create deployment web --image=registry.invalid/web:1 --replicas=2 --port=80
expect 'created' k create job once --image=registry.invalid/once:1 -- true
expect 'created' k create cronjob daily --image=registry.invalid/daily:1 --schedule='0 0 * * *' -- true
expect 'created' k create job by-hand --from=cronjob/daily
expect 'created' k create role reader --verb=get,list --resource=configmaps
expect 'created' k create rolebinding readers --role=reader --serviceaccount="$ns:robot"
expect 'created' kubectl create clusterrole "$ns" --verb=get --resource=nodes
expect 'labeled' kubectl label clusterrole "$ns" tour=kubectl
expect 'created' kubectl create clusterrolebinding "$ns" --clusterrole="$ns" --user=jane
expect 'labeled' kubectl label clusterrolebinding "$ns" tour=kubectl
expect 'created' k create quota box --hard=configmaps=20,services=10
expect 'created' k create poddisruptionbudget web --selector=app=web --min-available=1
expect 'created' k create service clusterip plain --tcp=80:80
expect 'created' k create service nodeport outside --tcp=80:80
expect 'created' k create ingress web --rule='example.com/*=plain:80'
expect 'created' kubectl create priorityclass "$ns" --value=7
expect 'deleted' kubectl delete priorityclass "$ns"
expect '^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.' k create token robot --duration=10m
refuse 'already exists' k create configmap settings

echo "- get in every form"
expect 'NAME +DATA +AGE' k get configmaps
expect 'settings' k get cm settings -o wide
expect 'colour: blue' k get cm settings -o yaml
expect '"colour": "blue"' k get cm settings -o json
expect '^configmap/settings$' k get cm settings -o name
expect '^blue$' k get cm settings -o 'jsonpath={.data.colour}'
expect '^1$' k get cm settings -o 'go-template={{.data.size}}'
expect 'COLOUR' k get cm settings -o custom-columns=COLOUR:.data.colour
expect 'login' k get secrets,configmaps
expect 'kube-system' k get configmaps --all-namespaces
expect 'settings' k get cm --field-selector metadata.name=settings --no-headers
expect 'web' k get deployments -l app=web --show-labels
expect 'settings' k get cm --sort-by=.metadata.name --chunk-size=1
expect 'managedFields' k get cm settings -o yaml --show-managed-fields
expect 'web' k get all
refuse 'NotFound' k get cm nothing
refuse "doesn't have a resource type" k get nonsense
expect 'ADDED.*settings' bash -c "timeout 3 kubectl -n $ns get cm settings --watch --output-watch-events || true"
expect 'status' k get deployment web --subresource=status -o yaml
kubectl proxy --port=0 >"$work/proxy" &
proxy=$!
for _ in $(seq 100); do grep -q 'Starting to serve' "$work/proxy" && break; sleep 0.1; done
expect '"gitVersion"' kubectl --kubeconfig=/dev/null --server="http://$(grep -oE '[0-9.]+:[0-9]+' "$work/proxy")" get --raw /version
kill "$proxy"

echo "- explain"
expect 'KIND: +Pod' kubectl explain pod
expect 'containers' kubectl explain pod.spec --recursive
expect 'DESCRIPTION' kubectl explain deployment.spec.replicas
expect 'VERSION: +v2' kubectl explain horizontalpodautoscaler --api-version=autoscaling/v2

echo "- apply, diff, edit, replace"
cat >"$work/cm.yaml" <<YAML
apiVersion: v1
kind: ConfigMap
metadata: {name: applied}
data: {a: "1", b: "2"}
YAML
expect 'created' k apply -f "$work/cm.yaml"
expect 'unchanged' k apply -f "$work/cm.yaml"
sed -i 's/a: "1"/a: "3"/; s/, b: "2"//' "$work/cm.yaml"
refuse '-  b: "2"' k diff -f "$work/cm.yaml"
expect 'configured' k apply -f "$work/cm.yaml"
expect '^\{"a":"3"\}$' k get cm applied -o 'jsonpath={.data}'
expect 'a: "3"' k apply view-last-applied -f "$work/cm.yaml"
expect 'applied' k apply set-last-applied -f "$work/cm.yaml"
expect 'serverside-applied' k apply --server-side --force-conflicts --field-manager=one -f "$work/cm.yaml"
sed -i 's/a: "3"/a: "4"/' "$work/cm.yaml"
refuse 'conflict' k apply --server-side --field-manager=two -f "$work/cm.yaml"
expect 'serverside-applied' k apply --server-side --field-manager=two --force-conflicts -f "$work/cm.yaml"
EDITOR="sed -i s/blue/green/" expect 'edited' k edit cm settings
expect '^green$' k get cm settings -o 'jsonpath={.data.colour}'
k get cm settings -o yaml | sed 's/green/red/' >"$work/settings.yaml"
expect 'replaced' k replace -f "$work/settings.yaml"
sed -i 's/resourceVersion: .*/resourceVersion: "1"/' "$work/settings.yaml"
refuse 'the object has been modified' k replace -f "$work/settings.yaml"
refuse 'unknown field "dta"' k create -f - <<<'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"dta":{}}'
refuse 'Required value|invalid' k create -f - <<<'{"apiVersion":"v1","kind":"Service","metadata":{"name":"Bad_Name"},"spec":{}}'
mkdir "$work/kustom" && cp "$work/cm.yaml" "$work/kustom/" && printf 'resources: [cm.yaml]\nnamePrefix: k-\n' >"$work/kustom/kustomization.yaml"
expect 'k-applied created' k apply -k "$work/kustom"
expect 'name: k-applied' kubectl kustomize "$work/kustom"
EDITOR="sed -i s/k-applied/k-applied/" expect 'Edit cancelled|edited|skipped' k apply edit-last-applied cm/k-applied
expect 'replaced' k replace --force -f "$work/cm.yaml"
expect 'pruned' k apply --prune -l prune=yes --prune-allowlist=core/v1/ConfigMap -f - <<YAML
$(k create configmap pruned --from-literal=a=1 --dry-run=client -o yaml | kubectl label --local -f - prune=yes -o yaml | k apply -f - >/dev/null
k create configmap kept --from-literal=a=1 --dry-run=client -o yaml | kubectl label --local -f - prune=yes -o yaml)
YAML

echo "- patch in three forms, and set"
expect 'patched' k patch deployment web -p '{"spec":{"template":{"spec":{"containers":[{"name":"web","env":[{"name":"A","value":"1"}]}]}}}}'
expect 'patched' k patch cm settings --type=merge -p '{"data":{"size":null,"shape":"round"}}'
expect 'patched' k patch cm settings --type=json -p '[{"op":"replace","path":"/data/shape","value":"square"}]'
expect '^square$' k get cm settings -o 'jsonpath={.data.shape}'
refuse 'invalid|Unprocessable|not found|nonexistent' k patch cm settings --type=json -p '[{"op":"remove","path":"/data/none"}]'
expect 'patched' k patch deployment web --subresource=scale --type=merge -p '{"spec":{"replicas":3}}'
expect 'image updated' k set image deployment/web '*=registry.invalid/web:2'
expect 'env updated' k set env deployment/web B=2
expect 'resource requirements updated' k set resources deployment/web --requests=cpu=10m
expect 'serviceaccount updated' k set serviceaccount deployment/web robot
expect 'subjects updated' k set subject rolebinding readers --user=jane
expect 'selector updated' k set selector service plain app=web

echo "- label, annotate, taint, cordon"
expect 'labeled' k label cm settings tier=front
refuse "already has a value|--overwrite is false" k label cm settings tier=back
expect 'labeled' k label --overwrite cm settings tier=back
expect 'unlabeled' k label cm settings tier-
expect 'annotated' k annotate cm settings note=hello
expect 'annotated' k annotate cm settings note-
node=$(kubectl get nodes -o 'jsonpath={.items[0].metadata.name}')
expect 'tainted' kubectl taint node "$node" tour=kubectl:PreferNoSchedule
expect 'untainted' kubectl taint node "$node" tour-
expect 'cordoned' kubectl cordon "$node"
expect 'SchedulingDisabled' kubectl get node "$node"
expect 'uncordoned' kubectl uncordon "$node"
expect 'drained|evicting|DaemonSet' kubectl drain "$node" --dry-run=server --ignore-daemonsets --force --delete-emptydir-data
kubectl uncordon "$node" >/dev/null

echo "- scale, autoscale, rollout, wait"
expect 'scaled' k scale deployment web --replicas=1
refuse '[Ee]xpected' k scale deployment web --replicas=5 --current-replicas=4
expect 'autoscaled' k autoscale deployment web --min=1 --max=3 --cpu-percent=80
expect 'web' k get hpa
expect 'REVISION' k rollout history deployment/web
expect 'registry.invalid/web:2' k rollout history deployment/web --revision=3
expect 'paused' k rollout pause deployment/web
expect 'resumed' k rollout resume deployment/web
expect 'restarted' k rollout restart deployment/web
expect 'rolled back' k rollout undo deployment/web
expect 'Waiting|successfully' k rollout status deployment/web --watch=false
expect 'condition met' k wait --for='jsonpath={.data.shape}=square' cm/settings --timeout=5s
refuse 'timed out' k wait --for=delete cm/settings --timeout=1s

echo "- expose, run, describe, events"
expect 'exposed' k expose deployment web --name=exposed --port=80 --target-port=8080
expect 'pod/alone created' k run alone --image=registry.invalid/alone:1 --restart=Never
expect 'Name: +alone' k describe pod alone
for kind in configmap/settings secret/login serviceaccount/robot deployment/web job/once cronjob/daily role/reader \
    rolebinding/readers resourcequota/box poddisruptionbudget/web service/outside ingress/web hpa/web; do
    expect "Name: +${kind#*/}" k describe "$kind"
done
expect 'Name: +web-' k describe replicasets
expect 'Name: +exposed' k describe endpoints exposed
expect 'Name: +exposed-' k describe endpointslices -l kubernetes.io/service-name=exposed
expect "Name: +$node" kubectl describe node "$node"
expect "Name: +$ns" kubectl describe namespace "$ns"
expect 'Name: +cluster-admin' kubectl describe clusterrole cluster-admin
expect 'Name: +cluster-admin' kubectl describe clusterrolebinding cluster-admin
expect 'Name: +system-node-critical' kubectl describe priorityclass system-node-critical
expect 'Name: +v1.apps' kubectl describe apiservice v1.apps
expect 'Name: +exempt' kubectl describe flowschema exempt
expect 'Name: +exempt' kubectl describe prioritylevelconfiguration exempt
expect 'Name:' k describe lease -n kube-system
expect 'LAST SEEN|No events found' k events
expect 'LAST SEEN|No resources' k get events --sort-by=.lastTimestamp

echo "- who may do what"
expect 'yes' kubectl auth can-i create pods
refuse '^no' kubectl auth can-i delete nodes --as=nobody
expect 'yes' k auth can-i get configmaps --as="system:serviceaccount:$ns:robot"
expect 'Resources' kubectl auth can-i --list
expect 'Username' kubectl auth whoami
expect 'unchanged|reconciled' k auth reconcile -f - <<YAML
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader, namespace: $ns}
rules: [{apiGroups: [""], resources: [configmaps, secrets], verbs: [get]}]
YAML
refuse 'Forbidden|forbidden' k get secrets --as=nobody

echo "- certificates"
request >"$work/csr"
csr() {
    cat <<YAML
apiVersion: certificates.k8s.io/v1
kind: CertificateSigningRequest
metadata: {name: tour-csr}
spec:
  request: $(base64 -w0 "$work/csr")
  signerName: kubernetes.io/kube-apiserver-client
  usages: [client auth]
YAML
}
expect 'created' kubectl create -f <(csr)
expect 'Name: +tour-csr' kubectl describe csr tour-csr
expect 'approved' kubectl certificate approve tour-csr
expect 'condition met' kubectl wait --for=condition=Approved csr/tour-csr --timeout=5s
expect 'deleted' kubectl delete csr tour-csr
expect 'created' kubectl create -f <(csr)
expect 'denied' kubectl certificate deny tour-csr
expect 'Denied' kubectl get csr tour-csr

echo "- custom resources"
kubectl apply -f - >/dev/null <<'YAML'
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gadgets.tour.example.com}
spec:
  group: tour.example.com
  scope: Namespaced
  names: {plural: gadgets, singular: gadget, kind: Gadget, shortNames: [gad]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}}
    additionalPrinterColumns: [{name: Colour, type: string, jsonPath: .spec.colour}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [colour]
            properties:
              colour: {type: string, enum: [red, blue], description: What it looks like.}
              replicas: {type: integer, default: 1}
          status: {type: object, properties: {replicas: {type: integer}}}
YAML
expect 'condition met' kubectl wait --for=condition=Established crd/gadgets.tour.example.com --timeout=10s
expect 'created' k create -f - <<<'{"apiVersion":"tour.example.com/v1","kind":"Gadget","metadata":{"name":"one"},"spec":{"colour":"red"}}'
refuse 'Unsupported value: "pink"' k create -f - <<<'{"apiVersion":"tour.example.com/v1","kind":"Gadget","metadata":{"name":"two"},"spec":{"colour":"pink"}}'
expect 'COLOUR' k get gad
expect '^1$' k get gadget one -o 'jsonpath={.spec.replicas}'
expect 'scaled' k scale gadget one --replicas=4
expect 'What it looks like' kubectl explain gadget.spec.colour
expect 'v1\.tour\.example\.com +Local +True' bash -c 'for i in 1 2 3 4 5 6; do kubectl get apiservices; sleep 0.5; done'
expect 'Colour: +red' k describe gadget one

echo "- describe, every kind there is"
sed "s/NS/$ns/; s/REQUEST/$(request | base64 -w0 | sed 's/[&/]/\\&/g')/" "$here/every-kind.yaml" >"$work/every-kind.yaml"
expect 'created' k create -f "$work/every-kind.yaml"
# Older kubectls ask for the beta versions of three kinds, which Kubernetes 1.36 does not serve.
for resource in $(kubectl api-resources --verbs=list,get -o name | grep -vE 'metrics.k8s.io$|^(ipaddresses|servicecidrs|volumeattributesclasses)\.'); do
    expect '^Name: ' kubectl describe "$resource" --all-namespaces
done

echo "- delete in every mode"
expect 'deleted \(server dry run\)' k delete cm settings --dry-run=server
expect 'deleted' k delete -f "$work/every-kind.yaml" --wait=false --ignore-not-found
expect 'deleted' k delete cm settings
expect 'deleted' k delete -f "$work/cm.yaml"
expect 'deleted' k delete secret -l '!none' --field-selector type=Opaque
expect 'deleted' k delete pod alone --grace-period=0 --force
expect 'deleted' k delete deployment web --cascade=orphan
expect 'web-' k get replicasets
expect 'deleted' k delete replicasets --all --cascade=foreground --timeout=30s
expect 'deleted' k delete job once by-hand --cascade=background
expect '"status":"Success"|"kind":"ConfigMap"|"Success"' kubectl delete --raw "/api/v1/namespaces/$ns/configmaps/k-applied"
expect '^$' k delete cm settings --ignore-not-found --now
expect 'deleted' kubectl delete crd gadgets.tour.example.com --timeout=20s
expect 'deleted' kubectl delete namespace "$ns" --timeout=60s
refuse 'NotFound' kubectl get namespace "$ns"

echo "kubectl tour: $steps steps as expected"
