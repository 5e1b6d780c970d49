# Autoscaling from what the containers really use: the node's figures, metrics.k8s.io, the autoscaler, new pods.

apply <<EOF
apiVersion: apps/v1
kind: Deployment
metadata: {name: busy}
spec:
  selector: {matchLabels: {app: busy}}
  template:
    metadata: {labels: {app: busy}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: $IMAGE
        command: [sh, -c, 'while :; do :; done']
        resources: {requests: {cpu: 10m}, limits: {cpu: 40m}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: busy}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: busy}
  minReplicas: 1
  maxReplicas: 3
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}]
EOF
check "a busy pod runs" $K rollout status deployment/busy --timeout=60s
check "its use is known" within 90 says busy $K top pod
check "the autoscaler sees it" within 120 is True field hpa busy '{.status.conditions[?(@.type=="ScalingActive")].status}'
check "and brings others" within 180 is 3 field deployment busy '{.status.readyReplicas}'
