from __future__ import annotations

import re
from pathlib import Path

import pytest

from bundler.discover import ImagePath, images_in
from bundler.errors import ManifestError
from bundler.manifest import Addon, list_addons

MANIFESTS = Path(__file__).parents[3] / "manifests"

POD = "{containers: [{name: c, image: IMAGE}]}"
TEMPLATE = "{template: {spec: " + POD + "}}"
SHAPES = {
    "Pod": POD,
    "Deployment": TEMPLATE,
    "DaemonSet": TEMPLATE,
    "StatefulSet": TEMPLATE,
    "ReplicaSet": TEMPLATE,
    "ReplicationController": TEMPLATE,
    "Job": TEMPLATE,
    "CronJob": "{jobTemplate: {spec: " + TEMPLATE + "}}",
    "Rollout": TEMPLATE,
}


def found(text: str, *paths: ImagePath) -> list[tuple[str, str]]:
    return [(str(entry.image), entry.where) for entry in images_in(text, "x.yaml", paths)]


@pytest.mark.parametrize("kind", SHAPES)
def test_every_kind_of_workload(kind: str) -> None:
    text = f"kind: {kind}\nmetadata: {{name: app}}\nspec: {SHAPES[kind].replace('IMAGE', 'r.test/a/b:1')}\n"
    assert found(text) == [("r.test/a/b:1", f"{kind} app")]


@pytest.mark.parametrize("containers", ["containers", "initContainers", "ephemeralContainers"])
def test_every_kind_of_container(containers: str) -> None:
    assert found(f"kind: Pod\nmetadata: {{name: p}}\nspec: {{{containers}: [{{image: a}}]}}") == [
        ("docker.io/library/a:latest", "Pod p")
    ]


def test_list_names_its_items() -> None:
    items = "".join(f"- {{kind: Pod, metadata: {{name: p{n}}}, spec: {{containers: [{{image: 'r.test/a:{n}'}}]}}}}\n"
                    for n in range(2))
    for kind in ("List", "PodList"):
        assert found(f"kind: {kind}\nmetadata: {{}}\nitems:\n{items}") == [
            ("r.test/a:0", "Pod p0"), ("r.test/a:1", "Pod p1")
        ]


def test_stream_with_comments_anchors_and_empty_documents() -> None:
    text = """# image: r.test/comment:1
---
---
kind: Pod
metadata: {name: one}
spec:
  containers:
  - &c {name: a, image: "r.test/a:1"}   # the anchor
  initContainers:
  - {<<: *c, name: b}
  - {<<: *c, image: r.test/b:1@sha256:%s}
---
kind: ConfigMap
metadata: {name: two}
data: {image: r.test/none:1}
""" % ("a" * 64)
    assert found(text) == [("r.test/a:1", "Pod one"), (f"r.test/b:1@sha256:{'a' * 64}", "Pod one")]


def test_declared_paths() -> None:
    text = "kind: Prometheus\nmetadata: {name: k8s}\nspec: {image: r.test/p:1, parts: [{image: r.test/q:1}, {}]}\n"
    assert found(text) == []
    assert found(text, ImagePath("Prometheus", "spec.image"), ImagePath("Prometheus", "spec.parts[].image")) == [
        ("r.test/p:1", "Prometheus k8s"), ("r.test/q:1", "Prometheus k8s")
    ]
    assert found(text, ImagePath("Alertmanager", "spec.image"), ImagePath("Prometheus", "spec.image.deep")) == []


def test_definition_of_a_resource_names_no_image() -> None:
    text = """kind: CustomResourceDefinition
metadata: {name: x}
spec: {schema: {properties: {containers: {items: {properties: {image: {type: string}}}}, op: {enum: [=, "!="]}}}}
"""
    assert found(text) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [\n", "x.yaml: line 2"),
        ("kind: Pod\nmetadata: {name: p}\nspec: {containers: [{image: 'A B'}]}", "x.yaml: Pod p: 'A B'"),
        ("kind: Pod\nmetadata: {name: p}\nspec: {containers: [{image: {a: 1}}]}", "x.yaml: Pod p"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message.replace("'", ".")):
        images_in(text, "x.yaml")


@pytest.mark.parametrize("addon", list_addons(MANIFESTS), ids=lambda addon: f"{addon.name}-{addon.version}")
def test_shipped_addon_lists_every_image_that_its_manifests_name(addon: Addon) -> None:
    listed = {image.ref for image in addon.images}
    for file in addon.manifests:
        if file.file:
            text = (addon.directory / file.file).read_text()
            for rule in addon.replace:
                text = text.replace(rule.old, rule.new)
            text = re.sub(r"@(POD|SERVICE)_SUBNET@", "10.0.0.0/8", text)
            for entry in images_in(text, file.file, addon.image_paths):
                image = entry.image
                assert f"{image.name}:{image.tag}" in listed, f"{file.file}: {entry.where}"
