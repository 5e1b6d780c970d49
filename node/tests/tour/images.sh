# Images from a registry that asks for a password: pull secrets, policies, what the node says of its images.

registry=127.0.0.1:26090
python3 ./registry.py "$work/image.tar" "${registry##*:}" tour secret >"$work/registry.log" 2>&1 &
events() { $K get events --field-selector "involvedObject.name=$1" -o 'jsonpath={range .items[*]}{.reason} {.message}{"\n"}{end}'; }
waits_for() { field pod "$1" '{.status.containerStatuses[0].state.waiting.reason}'; }
# from NAME TAG POLICY [SECRET]: a pod of the registry's image.
from() {
    local secrets='[]'
    [ $# -lt 4 ] || secrets="[{name: $4}]"
    pod "$1" <<EOF
  imagePullSecrets: $secrets
  containers: [{name: c, image: $registry/private/tour:$2, imagePullPolicy: $3, command: [sleep, "3600"]}]
EOF
}
$K create secret docker-registry right --docker-server=$registry --docker-username=tour --docker-password=secret >/dev/null
$K create secret docker-registry wrong --docker-server=$registry --docker-username=tour --docker-password=guess >/dev/null
from stranger v1 IfNotPresent
from guesser v1 IfNotPresent wrong
check "without a pull secret there is no image" within 90 says ErrImagePull events stranger
check "and the registry's answer is told" within 10 says 'Failed to pull image' events stranger
check "nor with a wrong one" within 90 says ErrImagePull events guesser
check "it is tried ever more slowly" within 60 is ImagePullBackOff waits_for stranger
from member v1 IfNotPresent right
check "with the right one there is" ready member
check "which is told" says 'Successfully pulled image' events member
pulls() { grep -c "^200 .*/manifests/" "$work/registry.log"; }
before=$(pulls)
from present v1 IfNotPresent right
check "an image that is there is not pulled" ready present
check "which is told, too" says 'already present on machine' events present
check "nobody asked the registry" is "$before" pulls
from thief v1 IfNotPresent
check "one that came with a secret is not for others" within 90 says ErrImagePull events thief
from peeper v1 Never wrong
check "nor are they told that it is there" within 90 is ErrImageNeverPull waits_for peeper
from always v1 Always right
check "policy Always" ready always
more() { [ "$(pulls)" -gt "$before" ]; }
check "asks it every time" more
from never v2 Never right
check "policy Never" within 90 is ErrImageNeverPull waits_for never
images() { kubectl get node "$NODE" -o 'jsonpath={.status.images[*].names}'; }
check "the node lists the image" within 90 says "$registry/private/tour:v1" images
