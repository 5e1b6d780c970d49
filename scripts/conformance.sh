#!/usr/bin/env bash
# Runs upstream's conformance tests against a running cluster and sums them up.
#
#   scripts/conformance.sh E2E_TEST KUBECONFIG LIST [REPORT_DIR]
#
# E2E_TEST is upstream's e2e.test binary of the cluster's version, LIST a file with the full name of a test a line
# (scripts/conformance/*.txt; # begins a comment). REPORT_DIR gets the JUnit file, the log and summary.txt.
# Environment: PARALLEL (processes, default 2; tests named [Serial] run alone afterwards), TIMEOUT (default 60m).
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2; }
e2e=$1 kubeconfig=$2 list=$3 out=${4:-.run/conformance}
parallel=${PARALLEL:-2} limit=${TIMEOUT:-60m}
[ -x "$e2e" ] || { echo "conformance: $e2e is not a program; build test/e2e/e2e.test of kubernetes 1.36" >&2; exit 2; }
mkdir -p "$out"
rm -rf "$out"/part-* "$out"/junit-*.xml

names() { grep -v '^#' "$list" | grep -v '^$' || true; }
# A focus is a regular expression: every name is taken literally.
focus() { sed 's/[][().*+?{}|^$\\/]/\\&/g' | paste -sd'|'; }

run() { # NAME FOCUS
    "$e2e" --provider=skeleton --kubeconfig="$kubeconfig" --kubectl-path="$(command -v kubectl)" \
        --ginkgo.focus="$2" --ginkgo.v --ginkgo.no-color --ginkgo.timeout="$limit" \
        --report-dir="$out/part-$1" --allowed-not-ready-nodes=-1 \
        --disable-log-dump --dump-logs-on-failure=false >"$out/part-$1.log" 2>&1 || true
    cp "$out/part-$1"/junit*.xml "$out/junit-$1.xml" 2>/dev/null || true
}

names | grep -v '\[Serial\]' >"$out/part-parallel.txt" || true
for i in $(seq 0 $((parallel - 1))); do
    awk -v n="$parallel" -v i="$i" 'NR % n == i' "$out/part-parallel.txt" >"$out/part-$i.txt"
    [ -s "$out/part-$i.txt" ] && run "$i" "$(focus <"$out/part-$i.txt")" &
done
wait
names | grep '\[Serial\]' >"$out/part-serial.txt" || true
[ -s "$out/part-serial.txt" ] && run serial "$(focus <"$out/part-serial.txt")"

python3 - "$out" "$list" <<'PY'
import glob, sys, xml.etree.ElementTree as xml
out, wanted = sys.argv[1], [l.strip() for l in open(sys.argv[2]) if l.strip() and not l.startswith("#")]
seen = {}
for path in glob.glob(f"{out}/junit-*.xml"):
    for case in xml.parse(path).getroot().iter("testcase"):
        name = case.get("name").removeprefix("[It] ")
        status = case.get("status")
        if status == "skipped" or case.find("skipped") is not None:
            continue
        failure = case.find("failure")
        if failure is None:
            failure = case.find("error")
        seen[name] = None if failure is None else (failure.get("message") or failure.text or "").strip().splitlines()[0]
find = lambda name: next((k for k in seen if k.startswith(name)), None)
passed = [n for n in wanted if find(n) and seen[find(n)] is None]
failed = [(n, seen[find(n)]) for n in wanted if find(n) and seen[find(n)] is not None]
missing = [n for n in wanted if not find(n)]
with open(f"{out}/summary.txt", "w") as f:
    print(f"{len(passed)} of {len(wanted)} passed, {len(failed)} failed, {len(missing)} did not run", file=f)
    for name, why in failed:
        print(f"FAILED  {name}\n        {why[:300]}", file=f)
    for name in missing:
        print(f"NOT RUN {name}", file=f)
print(open(f"{out}/summary.txt").read(), end="")
sys.exit(0 if len(passed) == len(wanted) else 1)
PY
