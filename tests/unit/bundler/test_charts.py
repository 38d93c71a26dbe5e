from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from pathlib import Path

import pytest
import yaml

from bundler.charts import Chart, index
from bundler.errors import HostError, ManifestError

META = "name: shop\nversion: 1.2.3\nappVersion: v7\n"
HELPER = '{{- define "shop.image" -}}\n{{ .Values.image.repository }}:{{ .Values.image.tag }}\n{{- end -}}\n'
BRANCHING = '{{- define "shop.image" -}}\n{{- if .Values.x }}a{{ else }}b{{ end }}\n{{- end -}}\n'


def chart(line: str = "", values: str = "{}", **files: str) -> Chart:
    found = {"Chart.yaml": META, "values.yaml": values}
    found.update((name.replace("__", "/"), text) for name, text in files.items())
    if line:
        found["templates/pod.yaml"] = f"kind: Pod\nspec:\n- image: {line}\n"
    return Chart.of({name: text.encode() for name, text in found.items()}, "shop.tgz")


def images(found: Chart, *declared: str) -> list[str]:
    return sorted({str(image).replace("docker.io/library/", "") for image, _ in found.images(declared)})


VALUES = """
image: {repository: r.test/a, tag: ''}
full: {image: {repository: r.test/b, tag: 2}}
name: r.test/c
none: ''
"""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("r.test/x:1", ["r.test/x:1"]),
        ('"r.test/x:1"   # pinned', ["r.test/x:1"]),
        (f"r.test/x:1@sha256:{'a' * 64}", [f"r.test/x:1@sha256:{'a' * 64}"]),
        ('"{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"', ["r.test/a:v7"]),
        ('{{ .Values.name }}:{{ default "1" .Values.none }}', ["r.test/c:1"]),
        ('{{- printf "%s:%s" $.Values.name (.Values.none | default "3" | trimPrefix "v") | quote }}', ["r.test/c:3"]),
        ("{{ .Values.name }}:{{ .Chart.Version }}", ["r.test/c:1.2.3"]),
        ("{{ .Values.none }}", []),
        ("{{ .Values.absent.deeper }}", []),
    ],
)
def test_image_line(line: str, expected: list[str]) -> None:
    assert images(chart(line, VALUES)) == sorted([*expected, "r.test/b:2"])


@pytest.mark.parametrize(
    "line",
    [
        "{{ .Values.name }}:{{ .Values.none }}",
        "{{ if .Values.x }}a{{ else }}b{{ end }}",
        "{{ $image }}",
        "{{ .image.repository }}:1",
        '{{ include "common.image" (dict "root" .Values.image) }}',
        '{{ lookup "v1" "Secret" "a" "b" }}',
        "{{ .Values.full }}",
        "{{ .Values.name | upper }}:1",
    ],
)
def test_what_only_helm_could_tell_is_named_and_can_be_declared(line: str) -> None:
    found = chart(line, VALUES.replace("full: {image: ", "full: {picture: "))
    with pytest.raises(ManifestError) as caught:
        found.images()
    assert f"shop.tgz: images that only helm could tell:\n  templates/pod.yaml:3: image: {line}" in caught.value.message
    assert "--chart-image shop=IMAGE" in caught.value.hint
    assert "q:1" in images(found, "docker.io/library/q:1")


def test_helper_without_branches_is_followed() -> None:
    values = "image: {repository: r.test/a, tag: 5}\n"
    assert images(chart('{{ include "shop.image" . }}', values, templates___helpers=HELPER)) == ["r.test/a:5"]
    found = chart('{{ include "shop.image" . }}', "x: 1\n", **{"templates__h.tpl": BRANCHING})
    with pytest.raises(ManifestError):
        found.images()


def test_helper_that_is_given_a_mapping_goes_by_convention() -> None:
    line = '{{ include "common.images.image" (dict "imageRoot" .Values.web.image "global" .Values.global) }}'
    values = "web: {image: {registry: r.test, repository: web, tag: 1, digest: ''}}\nglobal: {imageRegistry: ''}\n"
    assert images(chart(line, values)) == ["r.test/web:1"]
    with pytest.raises(ManifestError):
        chart(line, values.replace("imageRegistry: ''", "imageRegistry: own.test")).images()


def test_values_that_are_no_image_are_let_be() -> None:
    values = "git: {repository: 'https://git.test/x', tag: v1}\nimage: {pullPolicy: Always}\n"
    values += "l: [{image: 'r.test/l:1'}]\n"
    assert images(chart("", values)) == ["r.test/l:1"]


def test_sub_charts_take_the_parents_values() -> None:
    sub = {
        "charts__db__Chart.yaml": "name: db\nversion: 1\n",
        "charts__db__values.yaml": "image: {repository: r.test/db, tag: old}\n",
        "charts__db__templates__x.yaml": "image: {{ .Values.image.repository }}:{{ .Values.image.tag }}\n",
    }
    assert images(chart("", "db: {image: {tag: new}}\n", **sub)) == ["r.test/db:new"]
    assert images(chart("", "{}", **sub)) == ["r.test/db:old"]


def test_dependency_that_is_not_inside(tmp_path: Path) -> None:
    files = {"Chart.yaml": META + "dependencies: [{name: db, version: 1}]\n"}
    with pytest.raises(ManifestError, match=r"shop.tgz: depends on chart db, which is not in its charts/") as caught:
        Chart.of({name: text.encode() for name, text in files.items()}, "shop.tgz")
    assert "helm dependency build" in caught.value.hint


def test_pack_is_the_same_from_any_directory_and_reads_back(tmp_path: Path) -> None:
    packed = []
    for name in ("one", "two"):
        top = tmp_path / name
        (top / "templates").mkdir(parents=True)
        (top / "Chart.yaml").write_text(META)
        (top / "templates/p.yaml").write_text("image: r.test/x:1\n")
        packed.append(Chart.pack(top))
    assert packed[0] == packed[1]
    found = Chart.read(packed[0], "x")
    assert (found.file_name, images(found)) == ("shop-1.2.3.tgz", ["r.test/x:1"])
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(packed[0]))) as tar:
        assert tar.getnames() == ["shop/Chart.yaml", "shop/templates/p.yaml"]


def test_packed_sub_chart(tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    (tmp_path / "db/Chart.yaml").write_text("name: db\nversion: 1\n")
    (tmp_path / "db/values.yaml").write_text("image: r.test/db:1\n")
    files = {"Chart.yaml": META.encode(), "charts/db-1.tgz": Chart.pack(tmp_path / "db")}
    assert images(Chart.of(files, "x")) == ["r.test/db:1"]


@pytest.mark.parametrize("data", [b"", b"no gzip", gzip.compress(b"no tar" * 100), gzip.compress(bytes(10240))[:-4]])
def test_no_chart_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestError, match="x.tgz"):
        Chart.read(data, "x.tgz")


@pytest.mark.parametrize("meta", ["", "a: [", "- list", "name: ../x\nversion: 1\n", "name: x\n"])
def test_chart_without_name_or_version_is_refused(meta: str) -> None:
    with pytest.raises(ManifestError, match=r"Chart.yaml"):
        Chart.of({"Chart.yaml": meta.encode()}, "x.tgz")


def test_index_is_helms(tmp_path: Path) -> None:
    (tmp_path / "Chart.yaml").write_text(META)
    data = Chart.pack(tmp_path)
    document = yaml.safe_load(index({"shop-1.2.3.tgz": data}, 86400))
    (entry,) = document["entries"]["shop"]
    assert document["apiVersion"] == "v1"
    assert entry["digest"] == hashlib.sha256(data).hexdigest()
    assert (entry["version"], entry["urls"], entry["created"]) == ("1.2.3", ["shop-1.2.3.tgz"], "1970-01-02T00:00:00Z")


def test_directory_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "Chart.yaml").symlink_to("nowhere")
    with pytest.raises((ManifestError, HostError)):
        Chart.pack(tmp_path)
