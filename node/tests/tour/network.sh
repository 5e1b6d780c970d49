# Services of each type, DNS, host ports and policies.

# The bundled web server answers with its pod's name, and is a client too (`/web get`); busybox has nslookup.
WEB=registry.quarterdeck.local/web:v1
server() {
    pod "$1" <<EOF
  containers:
  - name: c
    image: $WEB
    ports: [{containerPort: 8080${2:+, hostPort: $2}}]
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
EOF
}
server alpha
server beta
server porty 26081
server client
pod look <<EOF
  containers: [{name: c, image: $IMAGE, command: [sleep, "3600"]}]
EOF
for name in alpha beta porty client look; do ready $name >/dev/null; done
$K label pod alpha beta tier=web --overwrite >/dev/null
apply <<EOF
apiVersion: v1
kind: Service
metadata: {name: cluster}
spec: {selector: {tier: web}, ports: [{name: web, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: sticky}
spec: {selector: {tier: web}, sessionAffinity: ClientIP, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: node}
spec: {type: NodePort, selector: {app: alpha}, ports: [{port: 80, targetPort: 8080, nodePort: 30801}]}
---
apiVersion: v1
kind: Service
metadata: {name: outside}
spec: {selector: {app: beta}, externalIPs: [192.0.2.77], ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, selector: {tier: web}, ports: [{name: web, port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere}
spec: {type: ExternalName, externalName: cluster.$NAMESPACE.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {selector: {app: nobody}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: balanced}
spec: {type: LoadBalancer, allocateLoadBalancerNodePorts: false, selector: {app: beta}, ports: [{port: 80, targetPort: 8080}]}
EOF
# Where the cluster hands out no addresses of its own, one is given.
balanced() { field service balanced '{.status.loadBalancer.ingress[0].ip}'; }
within 5 says . balanced || $K patch service balanced --subresource=status --type=merge \
    -p '{"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.78"}]}}}' >/dev/null
get() { from client "$1"; }
from() { timeout 5 $K exec "$1" -- /web get "http://$2"; }
both() { local seen; seen=$(for _ in $(seq 20); do get "$1"; done | sort -u | xargs); [ "$seen" = "alpha beta" ] || { echo "$seen"; return 1; }; }
one() { [ "$(for _ in $(seq 12); do get "$1"; done | sort -u | wc -l)" = 1 ]; }
check "a service reaches every pod behind it" within 20 both cluster
check "session affinity" within 20 one sticky
check "a node port" within 10 says alpha curl -s -m 3 "http://$NODE_IP:30801/"
check "a node port from a pod" within 20 says alpha get "$NODE_IP:30801"
check "an external address" within 10 says beta get 192.0.2.77
check "a load balancer's address" within 20 says beta get "$(balanced)"
check "a service without endpoints refuses" within 20 says refused get nobody
$K label pod client tier=self --overwrite >/dev/null
check "a pod reaches itself through its service" within 10 says alpha from alpha node
check "a host port" within 10 says porty curl -s -m 3 "http://$NODE_IP:26081/"
check "a host port on the loopback" within 10 says porty curl -s -m 3 http://127.0.0.1:26081/

look() { inside look "nslookup ${2:+-type=$2} $1 10.96.0.10"; }
check "names of services" within 20 says "$(field service cluster '{.spec.clusterIP}')" look cluster.$NAMESPACE.svc.cluster.local a
check "a headless service names its pods" within 20 says "$(field pod alpha '{.status.podIP}')" look headless.$NAMESPACE.svc.cluster.local a
check "search domains" within 20 says alpha get "node.$NAMESPACE"
check "aliases of other names" within 5 both elsewhere
check "SRV records" within 20 says "8080" look _web._tcp.headless.$NAMESPACE.svc.cluster.local srv
check "names of addresses" within 20 says cluster.$NAMESPACE.svc.cluster.local look "$(field service cluster '{.spec.clusterIP}')"
check "no such name" within 20 says NXDOMAIN look none.$NAMESPACE.svc.cluster.local a

apply <<EOF
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: alpha}
spec:
  podSelector: {matchLabels: {app: alpha}}
  policyTypes: [Ingress]
  ingress: [{from: [{podSelector: {matchLabels: {app: beta}}}], ports: [{port: 8080}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: beta}
spec:
  podSelector: {matchLabels: {app: porty}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchLabels: {app: beta}}}]}]
EOF
alpha=$(field pod alpha '{.status.podIP}') beta=$(field pod beta '{.status.podIP}')
check "a policy keeps others out" within 15 fails get "$alpha:8080"
check "and lets in whom it names" within 15 says alpha from beta "$alpha:8080"
check "an egress policy holds" within 15 fails from porty "$(field pod client '{.status.podIP}'):8080"
check "and allows what it names" within 15 says beta from porty "$beta:8080"
$K delete networkpolicy alpha beta >/dev/null
check "without it everybody is let in" within 15 says alpha get "$alpha:8080"
