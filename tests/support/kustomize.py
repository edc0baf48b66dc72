"""The part of kustomize that the manifests use: resources, namespace, suffix, labels, images, replicas and patches."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Document = dict[str, Any]

_KNOWN = {"apiVersion", "kind", "namespace", "resources", "nameSuffix", "labels", "images", "replicas", "patches"}


def resolved(folder: Path) -> list[Document]:
    """Return the documents of a kustomization, as `kubectl kustomize` prints them.

    Raises ValueError for a part of kustomize that this function does not know.
    """
    rules: Document = yaml.safe_load((folder / "kustomization.yaml").read_text())
    if unknown := set(rules) - _KNOWN:
        raise ValueError(f"{folder}: {unknown}")
    found = [each for name in rules["resources"] for each in _read(folder / name)]
    suffix = rules.get("nameSuffix", "")
    for each in found:
        each["metadata"]["name"] += suffix
        if "namespace" in rules:
            each["metadata"]["namespace"] = rules["namespace"]
        if each["kind"] == "HorizontalPodAutoscaler":
            each["spec"]["scaleTargetRef"]["name"] += suffix
        for labels in rules.get("labels", ()):
            _label(each, labels["pairs"], has_selectors=labels.get("includeSelectors", False))
        _set_images(each, {image["name"]: image["newTag"] for image in rules.get("images", ())})
        for count in rules.get("replicas", ()):
            if (each["kind"], each["metadata"]["name"]) == ("Deployment", count["name"]):
                each["spec"]["replicas"] = count["count"]
    for patch in rules.get("patches", ()):
        _patch(found, patch)
    return found


def _read(path: Path) -> list[Document]:
    if path.is_dir():
        return resolved(path)
    return list(yaml.safe_load_all(path.read_text()))


def _label(document: Document, pairs: dict[str, str], *, has_selectors: bool) -> None:
    places = [document["metadata"].setdefault("labels", {})]
    if has_selectors:
        spec = document.get("spec", {})
        places += [selector["matchLabels"] for selector in _selectors(spec)]
        if "template" in spec:
            places.append(spec["template"]["metadata"]["labels"])
    for place in places:
        place.update(pairs)


def _selectors(spec: Document) -> Iterator[Document]:
    if "selector" in spec:
        yield spec["selector"]
    for spread in spec.get("template", {}).get("spec", {}).get("topologySpreadConstraints", ()):
        yield spread["labelSelector"]


def _set_images(value: Any, tags: dict[str, str]) -> None:
    if isinstance(value, list):
        for each in value:
            _set_images(each, tags)
    elif isinstance(value, dict):
        for name, each in value.items():
            if name == "image" and each.rpartition(":")[0] in tags:
                image = each.rpartition(":")[0]
                value[name] = f"{image}:{tags[image]}"
            else:
                _set_images(each, tags)


def _patch(documents: list[Document], patch: Document) -> None:
    """Apply a JSON patch to each document of its target, which must be there."""
    target = patch["target"]
    chosen = [
        each
        for each in documents
        if each["kind"] == target["kind"] and each["metadata"]["name"] in {target["name"], f"{target['name']}-blue"}
    ]
    if not chosen:
        raise ValueError(f"no document for {target}")
    for document in chosen:
        for step in yaml.safe_load(patch["patch"]):
            *way, last = step["path"].strip("/").split("/")
            place: Any = document
            for name in way:
                place = place[name]
            if step["op"] not in {"add", "replace"}:
                raise ValueError(f"unknown step {step['op']}")
            place[last] = copy.deepcopy(step["value"])
