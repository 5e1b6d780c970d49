#!/usr/bin/env python3
"""Checks Cargo.lock against the RUSTSEC advisories. Prints every finding and exits 1 if there is any.

Reads a clone of https://github.com/RustSec/advisory-db where one is found ($RUSTSEC_DB, or the folder beside the build
folder, which is fetched when the network allows); without one it reads `scripts/advisories.json`, the facts about our
own dependencies as they were when it was written. `advisories.py --record` writes that file from the clone.
"""
import datetime
import json
import os
import pathlib
import re
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
RECORD = ROOT / "scripts/advisories.json"
CLONE = pathlib.Path(os.environ.get("RUSTSEC_DB", pathlib.Path.home() / ".cache/quarterdeck/advisory-db"))
SOURCE = "https://github.com/RustSec/advisory-db"
FETCH_SECS_MAX = 60
# A record older than this is pointed out.
RECORD_DAYS_MAX = 120


def refresh():
    """Fetches the database; whether it is there afterwards. No network is no failure."""
    if "RUSTSEC_DB" in os.environ:
        return CLONE.is_dir()
    exists = (CLONE / ".git").is_dir()
    command = ["git", "-C", CLONE, "pull", "-q", "--ff-only"] if exists else ["git", "clone", "-q", "--depth=1", SOURCE, CLONE]
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=FETCH_SECS_MAX, check=False)
    except subprocess.TimeoutExpired:
        return exists
    return done.returncode == 0 or exists


def advisories_of(names):
    """From the clone, what there is about these crates."""
    for name in sorted(names):
        for path in sorted((CLONE / "crates" / name).glob("RUSTSEC-*.md")):
            facts = tomllib.loads(re.search(r"```toml\n(.*?)```", path.read_text(encoding="utf-8"), re.S).group(1))
            advisory, versions = facts["advisory"], facts.get("versions", {})
            if "withdrawn" in advisory or advisory.get("informational") == "notice":
                continue
            yield {
                "id": advisory["id"],
                "package": name,
                "kind": advisory.get("informational", "vulnerability"),
                "good": versions.get("patched", []) + versions.get("unaffected", []),
            }


def number(version):
    """A version as something that can be compared; what comes before a release is smaller than it."""
    release, _, before = version.split("+")[0].partition("-")
    parts = [int(part) for part in release.split(".")]
    return (*(parts + [0, 0])[:3], before == "", before)


def caret_end(parts):
    """The first version that `^` no longer takes."""
    for at, part in enumerate(parts):
        if part or at == len(parts) - 1:
            return ".".join(str(p) for p in [*parts[:at], part + 1, 0, 0][:3])


def matches(version, requirement):
    """Whether a version meets a requirement such as `>= 1.2, < 1.4` or `^0.3.1`."""
    have = number(version)
    for part in requirement.split(","):
        sign, wanted = re.fullmatch(r"\s*(>=|<=|>|<|=|\^|~)?\s*(\S+)\s*", part).groups()
        limit = number(wanted)
        parts = [int(p) for p in wanted.split("-")[0].split(".")]
        good = {
            ">=": have >= limit,
            "<=": have <= limit,
            ">": have > limit,
            "<": have < limit,
            "=": have == limit,
            "^": limit <= have < number(caret_end(parts)),
            "~": limit <= have < number(".".join(map(str, [*parts[:-1][:1], (parts + [0])[1] + 1, 0]))),
        }[sign or "^"]
        if not good:
            return False
    return True


def main():
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text(encoding="utf-8"))["package"]
    locked = [(p["name"], p["version"]) for p in lock if "source" in p]
    if refresh():
        known, source = list(advisories_of({name for name, _ in locked})), str(CLONE)
    else:
        record = json.loads(RECORD.read_text(encoding="utf-8"))
        known, source = record["advisories"], f"the record of {record['date']} (the database cannot be reached)"
        age = datetime.date.today() - datetime.date.fromisoformat(record["date"])
        if age.days > RECORD_DAYS_MAX:
            print(f"note: {RECORD.name} is {age.days} days old; write it anew with `scripts/advisories.py --record`")
    if "--record" in sys.argv:
        lines = ",\n".join(json.dumps(advisory) for advisory in known)
        log = subprocess.run(["git", "-C", CLONE, "log", "-1", "--format=%cs"], check=True, capture_output=True, text=True)
        RECORD.write_text(f'{{"date": "{log.stdout.strip()}", "advisories": [\n{lines}\n]}}\n', encoding="utf-8")
    ignored = tomllib.loads((ROOT / "deny.toml").read_text(encoding="utf-8"))["advisories"]["ignore"]
    findings = [
        f"{advisory['id']} ({advisory['kind']}): {name} {version}; good are {', '.join(advisory['good']) or 'none'}"
        for name, version in locked
        for advisory in known
        if advisory["package"] == name and advisory["id"] not in ignored
        and not any(matches(version, good) for good in advisory["good"])
    ]
    for finding in findings:
        print(finding)
    print(f"{len(locked)} dependencies, {len(known)} advisories about them in {source}: {len(findings)} apply")
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
