# What the parts of the tour share: checks that are counted, and waiting.

K="kubectl -n $NAMESPACE"
IMAGE=localhost/tour:v1
passed=0
failures=()

# check NAME COMMAND...: one promise; the command's output is shown only when it is broken.
check() {
    local name=$1 output
    shift
    if output=$("$@" 2>&1); then
        passed=$((passed + 1))
        echo "ok      $name"
    else
        failures+=("$name")
        echo "FAILED  $name"
        sed 's/^/        /' <<<"$output" | tail -n 12
    fi
}

# within SECONDS COMMAND...: tries until it succeeds; on a machine that does other things, too, PATIENCE times as long.
within() {
    local end=$((SECONDS + $1 * ${PATIENCE:-1}))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || { "$@"; return; }
        sleep 0.3
    done
}

# says TEXT COMMAND...: the command's output contains the text.
says() {
    local text=$1 output
    shift
    output=$("$@" 2>&1)
    grep -qF -- "$text" <<<"$output" || { echo "wanted: $text"; echo "got: $output"; return 1; }
}

# is TEXT COMMAND...: the command's output is the text.
is() {
    local text=$1 output
    shift
    output=$("$@" 2>&1)
    [ "$output" = "$text" ] || { echo "wanted: $text"; echo "got: $output"; return 1; }
}

fails() { ! "$@"; }

field() { $K get "$1" "$2" -o "jsonpath=$3"; }

ready() { $K wait --for=condition=Ready --timeout=180s "pod/$1"; }

# apply: applies what it reads; a server that is short of breath is asked again.
apply() {
    local manifest
    manifest=$(cat)
    apply_once() { $K apply -f - <<<"$manifest"; }
    within 60 apply_once >/dev/null
}

# pod NAME [SPEC FIELDS AS YAML, indented by two]: applies a pod of the busybox image whose container is named c.
pod() {
    local name=$1
    { printf 'apiVersion: v1\nkind: Pod\nmetadata: {name: %s, labels: {app: %s}}\nspec:\n  terminationGracePeriodSeconds: 1\n' "$name" "$name"
      cat; } | apply
}

inside() { local pod=$1; shift; $K exec "$pod" -c c -- sh -c "$*"; }

report() {
    echo "$passed passed, ${#failures[@]} failed"
    [ "${#failures[@]}" -eq 0 ] || { printf 'failed: %s\n' "${failures[@]}"; return 1; }
}
