"""The user's own things on the command line: what is asked for is locked, found inside, carried; or refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.integration.upstream.site import Site, run

pytestmark = pytest.mark.root

DARK = 'image: {{ include "lib.image" . }}\n'


def extras(site: Site) -> dict[str, object]:
    (document,) = yaml.safe_load_all((site.root / "locks/extras.lock").read_text())
    assert isinstance(document, dict)
    return document


def locked_images(site: Site) -> dict[str, str]:
    images = yaml.safe_load((site.root / "locks/images.lock").read_text())["images"]
    return {image["annotations"]["kbld.carvel.dev/id"]: image["image"] for image in images}


def make_chart(site: Site, name: str, template: str, values: str = "") -> None:
    top = site.root / name
    (top / "templates").mkdir(parents=True, exist_ok=True)
    (top / "Chart.yaml").write_text(f"name: {name}\nversion: 1.0.0\n")
    (top / "values.yaml").write_text(values)
    (top / "templates/x.yaml").write_text(template)


def test_image_by_digest_keeps_it(site: Site) -> None:
    site.registry.push("pinned", "v1", [300], site.root / "layouts")
    site.run("lock", "--image", "images.test/pinned:v1")
    digest = locked_images(site)["images.test/pinned:v1"].partition("@")[2]
    lines = site.run("lock", "--image", f"images.test/pinned:v0@{digest}").stdout.splitlines()
    tag = digest.replace(":", "-")
    assert f"added own image images.test/pinned:v0@{digest}" in lines
    assert locked_images(site)[f"images.test/pinned:{tag}"] == f"images.test/pinned@{digest}"
    site.run("build", "-o", "pinned.tar")
    proof = json.loads(run("tar", "xf", "pinned.tar", "-O", "closure.json", cwd=site.root).stdout)
    assert {"ref": f"images.test/pinned:{tag}", "by": ["the user"]} in proof["proven"]["images"]
    site.run("lock", "--drop", f"images.test/pinned:v0@{digest}", "--drop", "images.test/pinned:v1")


def test_chart_that_only_helm_could_render(site: Site) -> None:
    site.registry.push("dark", "v1", [300], site.root / "layouts")
    make_chart(site, "dark", DARK)
    said = site.run("lock", "--chart", "dark", code=3).stderr
    assert "dark: images that only helm could tell:\n  templates/x.yaml:1: image: {{ include" in said
    assert "--chart-image dark=IMAGE" in said
    assert "dark" not in "".join(path.read_text() for path in (site.root / "locks").glob("extras.lock"))
    site.run("lock", "--chart", "dark", "--chart-image", "dark=images.test/dark:v1")
    assert extras(site)["charts"][0]["declared"] == ["images.test/dark:v1"]  # type: ignore[index]
    site.run("build", "-o", "dark.tar")
    (site.root / "dark/Chart.yaml").write_text("name: dark\nversion: 2.0.0-rc.1\n")
    site.run("lock", "--chart", "dark", "--chart-image", "dark=images.test/dark:v1")
    assert [chart["name"] for chart in extras(site)["charts"]] == ["dark-2.0.0-rc.1.tgz"]  # type: ignore[attr-defined]
    site.run("lock", "--drop", "dark")


def test_manifest_and_chart_by_url(site: Site) -> None:
    pod = "kind: Pod\nmetadata: {name: w}\nspec: {containers: [{image: 'images.test/net:v1'}]}\n"
    (site.root / "upstream/web.yaml").write_text(pod)
    make_chart(site, "online", "image: images.test/pause:3.2\n")
    run("tar", "czf", "upstream/online.tgz", "online", cwd=site.root)
    site.run("lock", "--manifest", "https://files.test/web.yaml", "--chart", "https://files.test/online.tgz")
    site.run("build", "-o", "url.tar")
    members = run("tar", "tf", "url.tar", cwd=site.root).stdout.splitlines()
    assert {"manifests/own/web.yaml", "charts/online-1.0.0.tgz", "charts/index.yaml"} <= set(members)
    contract = json.loads(run("tar", "xf", "url.tar", "-O", "bundle.json", cwd=site.root).stdout)
    assert "web.yaml" not in contract["node"]["ADDON_MANIFESTS"]
    for name in ("web.yaml", "online-1.0.0.tgz"):
        site.run("lock", "--drop", name)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--image", "A B"], 3, "'A B': not an image reference"),
        (["--image", "localhost/x:1"], 3, "its registry must have a dot or a port"),
        (["--image", "images.test/never:v1"], 5, "never/manifests/v1"),
        (["--chart", "oci://images.test/c"], 3, "oci://images.test/c: only http and https are spoken"),
        (["--chart", "absent"], 7, "absent: No such file"),
        (["--chart", "manifests/1.20.yaml"], 3, "manifests/1.20.yaml: not a packed chart"),
        (["--manifest", "absent.yaml"], 7, "absent.yaml: No such file"),
        (["--file", "https://files.test/absent"], 5, "absent"),
        (["--package", "no such"], 3, "no such: no name of a package"),
        (["--package", "ghost"], 4, "no package ghost"),
        (["--chart-image", "ghost=images.test/net:v1"], 3, "no chart ghost is asked for"),
        (["--chart-image", "ghost"], 3, "must be CHART=IMAGE"),
        (["--drop", "ghost"], 3, "extras.lock has no such thing"),
    ],
)
def test_what_cannot_be_locked_is_refused_and_changes_nothing(
    site: Site, arguments: list[str], code: int, said: str
) -> None:
    before = {path: path.read_bytes() for path in sorted((site.root / "locks").rglob("*.lock"))}
    assert said in site.run("lock", "--retries", "0", *arguments, code=code).stderr
    assert {path: path.read_bytes() for path in sorted((site.root / "locks").rglob("*.lock"))} == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("release: '1.20'\nimage: [x]\n", "image: unknown key"),
        ("release: '1.20'\n---\nrelease: '1.20'\n", "1.20 is given twice"),
        ("release: '1.20'\nfiles: [{from: x, name: ../x, checksum: 'sha256:0'}]\n", "files[0].name"),
        ("release: '1.20'\nfiles: [{from: x, name: x, checksum: 'sha256:0'}]\n", "files[0].checksum"),
    ],
)
def test_malformed_lock_is_named(site: Site, tmp_path: Path, text: str, said: str) -> None:
    run("cp", "-r", site.root / "locks", tmp_path / "locks")
    (tmp_path / "locks/extras.lock").write_text(text)
    found = site.run("build", "--lock-dir", tmp_path / "locks", code=3).stderr
    assert "extras.lock: document" in found
    assert said in found
