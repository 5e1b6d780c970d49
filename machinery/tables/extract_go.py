#!/usr/bin/env python3
"""Collects facts about Kubernetes' Go structs that its OpenAPI does not say, into go_fields.tsv.

usage: extract_go.py KUBERNETES_TREE > go_fields.tsv

One row a field that differs from what the schema alone suggests (string -> string, $ref -> package.Type,
not a pointer, omitempty): definition, JSON name, flags, Go type.
Flags: `p` pointer (its zero value is not absence), `e` always written (no omitempty), `-` none.
"""
import glob, os, re, sys

tree = sys.argv[1] + "/staging/src/k8s.io/"
PACKAGES = {}
for directory in glob.glob(tree + "api/*/v*"):
    group, version = directory.split("/")[-2:]
    PACKAGES[directory] = f"io.k8s.api.{group}.{version}"
PACKAGES[tree + "apimachinery/pkg/apis/meta/v1"] = "io.k8s.apimachinery.pkg.apis.meta.v1"
PACKAGES[tree + "apiextensions-apiserver/pkg/apis/apiextensions/v1"] = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1"
PACKAGES[tree + "kube-aggregator/pkg/apis/apiregistration/v1"] = "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1"

STRUCT = re.compile(r"^type (\w+) struct \{\n(.*?)^\}", re.M | re.S)
FIELD = re.compile(r"^\s+(?:(\w+)\s+)?([\w.*\[\]]+)\s+`([^`]*)`", re.M)


def go_type(text, package):
    """The type as reflect prints it: package-qualified, outer pointer removed."""
    text = text.lstrip("*")
    short = package.rsplit(".", 1)[1]
    prefix = ""
    while True:
        found = re.match(r"(\[\]|map\[[\w.]+\]|\*)", text)
        if not found:
            break
        prefix += found.group(1)
        text = text[found.end():]
    prefix = re.sub(r"map\[([A-Z]\w*)\]", rf"map[{short}.\1]", prefix)
    text = text.replace("metav1.", "v1.").replace("corev1.", "v1.").replace("apiextensionsv1.", "v1.")
    if text[:1].isupper():
        text = f"{short}.{text}"
    return prefix + text


def main():
    for directory, package in sorted(PACKAGES.items(), key=lambda item: item[1]):
        structs = {}
        for path in sorted(glob.glob(directory + "/*.go")):
            if path.endswith(("_test.go", "generated.pb.go", "zz_generated.deepcopy.go")):
                continue
            for name, body in STRUCT.findall(open(path).read()):
                structs[name] = FIELD.findall(body)
        for name in sorted(structs):
            for row in fields(structs, name, package):
                if not (row[2] == "-" and row[3] in ("string", "bool", "int32", "int64")):
                    print("\t".join(row))


def fields(structs, name, package):
    for _, type_text, tag in structs.get(name, []):
        found = re.search(r'json:"([^"]*)"', tag)
        if not found:
            continue
        json_name, *options = found.group(1).split(",")
        if "inline" in options or (json_name == "" and not options):
            inner = type_text.lstrip("*")
            if inner in structs:
                for row in fields(structs, inner, package):
                    yield (f"{package}.{name}",) + row[1:]
            continue
        if json_name == "-":
            continue
        flags = ("p" if type_text.startswith("*") else "") + ("" if {"omitempty", "omitzero"} & set(options) else "e")
        yield (f"{package}.{name}", json_name, flags or "-", go_type(type_text, package))


main()
