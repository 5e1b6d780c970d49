#!/usr/bin/env python3
"""Writes types.tsv and resources.tsv, the tables that machinery embeds, from the fact tables.

usage: generate.py FACTS_DIR   (the folder that holds kubernetes-1.36/)

types.tsv, tab separated:
  T  definition  kind  flags  group/version/kind,...  extensions(JSON)
  F  json-name  type  protobuf-number  flags  default(JSON)  map-keys  strategies  merge-key  go-type
Kinds: struct, or the special encodings quantity, intorstring, time, microtime, raw, fieldsv1, json, orarray,
orbool, orstrings. A type is s(tring) b(ytes) B(ool) i(nt32) l(int64) d(ouble), #N (the Nth T row),
[x]T a list (x: a atomic, s set, m map, w wrapped in a message on the wire) or {}T a map.
Flags: r required, p pointer, e written even when empty, a atomic for apply, g granular though its type is atomic.
A dotted protobuf number is a path through nested messages that JSON inlines.
"""
import json, os, re, sys

HERE = os.path.dirname(os.path.abspath(__file__))
FACTS = sys.argv[1] + "/kubernetes-1.36/"
SCHEMA = json.load(open(FACTS + "schema.json"))
MESSAGES = json.load(open(FACTS + "proto.json"))["messages"]
META = "io.k8s.apimachinery.pkg.apis.meta.v1."
EXT = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1."
SPECIAL = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": "quantity",
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": "intorstring",
    META + "Time": "time",
    META + "MicroTime": "microtime",
    "io.k8s.apimachinery.pkg.runtime.RawExtension": "raw",
    META + "FieldsV1": "fieldsv1",
    EXT + "JSON": "json",
    EXT + "JSONSchemaPropsOrArray": "orarray",
    EXT + "JSONSchemaPropsOrBool": "orbool",
    EXT + "JSONSchemaPropsOrStringArray": "orstrings",
    META + "Patch": "raw",
}
# Types that travel but stand in no OpenAPI definition.
WIRE_ONLY = [META + n for n in ("CreateOptions", "UpdateOptions", "PatchOptions", "GetOptions", "ListOptions", "PartialObjectMetadata", "PartialObjectMetadataList", "TableOptions")]
WIRE_ONLY += ["io.k8s.api.core.v1." + n for n in ("NodeProxyOptions", "PodAttachOptions", "PodExecOptions", "PodLogOptions", "PodPortForwardOptions", "PodProxyOptions", "ServiceProxyOptions", "RangeAllocation", "SerializedReference")]
SCALARS = {"string": "s", "bytes": "b", "bool": "B", "int32": "i", "int64": "l", "double": "d"}
PROTO_NAMES = {"$ref": "ref", "$schema": "schema", "uid": "uID", "apiGroup": "aPIGroup"}


def go_fields():
    out = {}
    for line in open(HERE + "/go_fields.tsv"):
        definition, name, flags, go = line.rstrip("\n").split("\t")
        out[definition, name] = (flags.replace("-", ""), go)
    return out


GO = go_fields()


def message_of(definition):
    return MESSAGES.get("k8s.io." + definition[len("io.k8s."):].replace("-", "_"))


def definition_of(message):
    return "io.k8s." + message[len("k8s.io."):].replace("apiextensions_apiserver", "apiextensions-apiserver").replace("kube_aggregator", "kube-aggregator")


def number_of(message, name):
    """The protobuf field and its path of numbers, searching nested messages that JSON inlines."""
    for candidate in (name, PROTO_NAMES.get(name), name[:1].upper() + name[1:], camel(name)):
        if candidate in message:
            return [message[candidate]["n"]], message[candidate]
    for outer, field in message.items():
        nested = MESSAGES.get(field["type"])
        if nested and not field.get("repeated") and outer in INLINED:
            found = number_of(nested, name)
            if found:
                return [field["n"]] + found[0], found[1]
    return None


INLINED = {"localObjectReference", "ephemeralContainerCommon", "persistentVolumeSource", "handler", "volumeSource", "ingressRuleValue", "rule", "ruleWithOperations", "deviceConfiguration"}


def camel(name):
    return re.sub(r"-(\w)", lambda m: m.group(1).upper(), name)


def definitions():
    """Every schema, the wire-only ones built from their messages."""
    out = dict(SCHEMA)
    for name in WIRE_ONLY:
        properties = {}
        for field, spec in message_of(name).items():
            properties[field] = from_message(spec)
        properties.setdefault("apiVersion", {"type": "string"})
        properties.setdefault("kind", {"type": "string"})
        gvk = {"group": "meta.k8s.io" if name.startswith(META) else "", "version": "v1", "kind": name.rsplit(".", 1)[1]}
        out[name] = {"type": "object", "properties": properties, "x-kubernetes-group-version-kind": [gvk], "wire-only": True}
    return out


def from_message(spec):
    if spec.get("repeated"):
        return {"type": "array", "items": from_message({"type": spec["type"]})}
    kinds = {"string": ("string", None), "bytes": ("string", "byte"), "bool": ("boolean", None), "int32": ("integer", "int32"), "int64": ("integer", "int64"), "double": ("number", "double")}
    if spec["type"] in kinds:
        kind, form = kinds[spec["type"]]
        return {"type": kind, **({"format": form} if form else {})}
    if spec["type"].startswith("map<string,"):
        return {"type": "object", "additionalProperties": from_message({"type": spec["type"][11:-1]})}
    return {"$ref": definition_of(spec["type"])}


DEFINITIONS = definitions()
NAMES = sorted(DEFINITIONS)
INDEX = {name: i for i, name in enumerate(NAMES)}


def type_of(node, wire):
    """The type expression of a property; `wire` is the protobuf field's type text."""
    if "$ref" in node:
        return f"#{INDEX[node['$ref']]}"
    if "items" in node:
        kind = {"atomic": "a", "set": "s", "map": "m"}.get(node.get("x-kubernetes-list-type"), "")
        wrapped = "w" if wire and re.search(r"\.(ExtraValue|Verbs)$", wire) else ""
        return f"[{kind}{wrapped}]" + type_of(node["items"], wire)
    if "additionalProperties" in node:
        inner = wire[len("map<string,"):-1] if wire and wire.startswith("map<") else None
        return "{}" + type_of(node["additionalProperties"], inner)
    kind, form = node.get("type"), node.get("format")
    if kind == "string":
        return "b" if form == "byte" else "s"
    if kind == "boolean":
        return "B"
    if kind == "integer":
        return {"int64": "l", None: "l"}.get(form, "i")
    if kind == "number":
        return "d"
    raise SystemExit(f"no type for {node}")


def plain_go(node):
    if "$ref" in node:
        return ".".join(node["$ref"].rsplit(".", 2)[1:])
    if "items" in node:
        return "[]" + plain_go(node["items"])
    if "additionalProperties" in node:
        return "map[string]" + plain_go(node["additionalProperties"])
    if node.get("format") == "byte":
        return "[]uint8"
    return {"integer": node.get("format", "int64"), "boolean": "bool", "number": "float64"}.get(node["type"], "string")


def field_row(definition, name, node, required):
    message = message_of(definition)
    found = number_of(message, name) if message else None
    if not found and name in ("apiVersion", "kind") or not message:
        found = ([], {"type": ""})
    if not found:
        raise SystemExit(f"no protobuf field for {definition}.{name}")
    path, spec = found
    flags, go = GO.get((definition, name), ("", None))
    go = go if go and go != plain_go(node) else ""
    if name in required:
        flags += "r"
    flags += {"atomic": "a", "granular": "g"}.get(node.get("x-kubernetes-map-type"), "")
    default = json.dumps(node["default"]) if "default" in node else ""
    keys = ",".join(node.get("x-kubernetes-list-map-keys", []))
    strategy, merge = node.get("x-kubernetes-patch-strategy", ""), node.get("x-kubernetes-patch-merge-key", "")
    number = ".".join(map(str, path))
    return ["F", name, type_of(node, spec["type"]), number, flags, default, keys, strategy, merge, go]


def type_rows():
    for definition in NAMES:
        node = DEFINITIONS[definition]
        gvks = ",".join(f"{g['group']}/{g['version']}/{g['kind']}" for g in node.get("x-kubernetes-group-version-kind", []))
        flags = ("a" if node.get("x-kubernetes-map-type") == "atomic" else "") + ("w" if node.get("wire-only") else "")
        extras = {k: v for k, v in node.items() if k == "x-kubernetes-unions"}
        if node.get("required", []) != sorted(node.get("required", [])):
            # Documents list required fields in Go's order, not in the alphabet's.
            extras["required"] = node["required"]
        yield ["T", definition, SPECIAL.get(definition, "struct"), flags, gvks, json.dumps(extras) if extras else ""]
        if definition in SPECIAL:
            continue
        required = node.get("required", [])
        for name, child in sorted(node.get("properties", {}).items()):
            yield field_row(definition, name, child, required)


def resource_rows():
    for r in json.load(open(FACTS + "resources.json")):
        subs = ";".join(f"{name}:{s['kind']}:{','.join(s['verbs'])}" for name, s in sorted(r["subresources"].items()))
        yield [r["group"], r["version"], r["resource"], r["kind"], r["singular"], r["scope"][0], ",".join(r["shortNames"]), ",".join(r["categories"]), ",".join(r["verbs"]), subs]


def write(name, rows):
    with open(f"{HERE}/{name}", "w") as out:
        for row in rows:
            out.write("\t".join(row).rstrip("\t") + "\n")


write("types.tsv", type_rows())
write("resources.tsv", resource_rows())
