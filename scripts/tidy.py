#!/usr/bin/env python3
"""Checks that the house's rules hold: layering, licences of dependencies, file sizes and headers.

Prints every violation and exits 1 if there is any. Reads `cargo metadata` and the tracked files only.
"""
import json
import re
import subprocess
import sys

# A crate may depend on these workspace crates and no others (ARCHITECTURE.md, "Layers").
LAYERS = {
    "base2histogram": set(),
    "proto": set(),
    "raft-store": {"proto"},
    "machinery": {"proto"},
    "apiserver": {"machinery", "raft-store", "proto"},
    "scheduler": {"machinery"},
    "controllers": {"machinery"},
    "node": {"machinery", "proto"},
    "quarterdeck": {"apiserver", "proto", "scheduler", "controllers", "node", "machinery", "raft-store"},
}
# The product never needs these; they may need anything.
HARNESSES = {"chaos", "bench", "fuzz"}

LICENCES = {
    "MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Zlib", "0BSD",
    "Unlicense", "Unicode-3.0", "Unicode-DFS-2016", "CC0-1.0", "MIT-0", "BSL-1.0", "CDLA-Permissive-2.0",
}
# Lines a source file may have: above this it holds more than one concept.
LINES_MAX = 500


def metadata():
    out = subprocess.run(
        ["cargo", "metadata", "--format-version", "1", "--locked"], check=True, capture_output=True, text=True
    )
    return json.loads(out.stdout)


def licence_ok(expression):
    """An SPDX expression passes when one choice of its ORs has only allowed parts."""
    expression = expression.replace("/", " OR ").replace("(", " ").replace(")", " ")
    alternatives = [part.strip() for part in expression.split(" OR ")]
    return any(all(piece.strip() in LICENCES for piece in part.split(" AND ")) for part in alternatives)


def check_packages(packages):
    members = set(LAYERS) | HARNESSES
    for package in packages:
        name = package["name"]
        if package["source"] is None:
            used = {d["name"] for d in package["dependencies"] if d["name"] in members and d["kind"] is None}
            if name in LAYERS:
                for extra in sorted(used - LAYERS[name]):
                    yield f"{name} must not depend on {extra}"
            elif name not in HARNESSES:
                yield f"{name} has no place in the layers of scripts/tidy.py"
        elif not package["license"] and not package["license_file"]:
            yield f"{name} {package['version']} states no licence"
        elif package["license"] and not licence_ok(package["license"]):
            yield f"{name} {package['version']}: licence {package['license']} is not on the list"


def check_files():
    files = subprocess.run(["git", "ls-files", "*.rs"], check=True, capture_output=True, text=True).stdout.split()
    for path in files:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
        if len(lines) > LINES_MAX:
            yield f"{path} has {len(lines)} lines; {LINES_MAX} at most, one concept a file"
        if not lines or not lines[0].startswith("//!"):
            yield f"{path} does not open with a `//!` that says what it owns"
        for number, line in enumerate(lines, 1):
            if re.search(r"#\[ignore|\b(todo|unimplemented)!\(", line):
                yield f"{path}:{number} {line.strip()}"


def main():
    violations = [*check_packages(metadata()["packages"]), *check_files()]
    for violation in violations:
        print(violation)
    sys.exit(1 if violations else 0)


if __name__ == "__main__":
    main()
