"""The locks that are shipped: of published form, complete as far as they say, and made of collected facts only."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from bundler.complete import missing, needs
from bundler.lock import read_locks, write_locks
from bundler.locked import ArchLock, LockedPackage, Locks
from bundler.manifest import list_addons, load_addons, load_release, release_names

ROOT = Path(__file__).parents[3]
PINS = ROOT.parent / "shared/pins"
MANIFESTS = ROOT / "manifests"
SHIPPED = read_locks(ROOT)
RELEASES = [load_release(MANIFESTS, name) for name in release_names(MANIFESTS)]
needs_pins = pytest.mark.facts
Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def packages() -> Iterator[LockedPackage]:
    for host in SHIPPED.hosts.values():
        for arch in host.arches.values():
            yield from arch.packages


def schema(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads((ROOT / f"tests/schemas/{name}.schema.json").read_text()))


RPMS, IMAGES = schema("konflux-rpms-lock"), schema("imgpkg-images-lock")


class TestPublishedForms:
    @pytest.mark.parametrize("document", list(yaml.load_all((ROOT / "rpms.lock").read_text(), Loader)))
    def test_rpms(self, document: dict) -> None:
        RPMS.validate(document)

    def test_images(self) -> None:
        (document,) = yaml.load_all((ROOT / "images.lock").read_text(), Loader)
        IMAGES.validate(document)
        assert len(document["images"]) == len(SHIPPED.images) > 30

    @needs_pins
    def test_the_schemas_take_what_the_tools_wrote(self) -> None:
        examples = sorted((PINS / "examples").glob("*.lock.yaml"))
        assert len(examples) == 2
        for path in examples:
            RPMS.validate(yaml.load(path.read_text(), Loader))
        for path in (PINS / "examples").glob("*images.yml"):
            IMAGES.validate(yaml.load(path.read_text(), Loader))

    @pytest.mark.parametrize("key", ["url", "name", "evr", "checksum"])
    def test_the_schema_of_packages_is_no_formality(self, key: str) -> None:
        document = next(yaml.load_all((ROOT / "rpms.lock").read_text(), Loader))
        del document["arches"][0]["packages"][0][key]
        with pytest.raises(jsonschema.ValidationError):
            RPMS.validate(document)

    def test_the_schema_of_images_is_no_formality(self) -> None:
        (document,) = yaml.load_all((ROOT / "images.lock").read_text(), Loader)
        for change in ({"size": 1}, {"image": "docker.io/library/busybox:1.33"}, {"annotations": {"size": 1}}):
            wrong = copy.deepcopy(document)
            wrong["images"][0].update(change)
            with pytest.raises(jsonschema.ValidationError):
                IMAGES.validate(wrong)


class TestContents:
    def test_is_what_would_be_written(self, tmp_path: Path) -> None:
        write_locks(tmp_path, SHIPPED)
        for name in ("rpms.lock", "images.lock", "manifests/files.lock"):
            assert (ROOT / name).read_bytes() == (tmp_path / name).read_bytes()

    def test_reference_release_is_complete(self) -> None:
        release = load_release(MANIFESTS, "1.8")
        assert missing(release, load_addons(MANIFESTS, release, ()), SHIPPED, ["el7"], ["amd64"]) == []
        assert len(SHIPPED.hosts["1.8", "el7"].arches["x86_64"].packages) == 14

    @pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.release)
    def test_images_and_binaries_of_the_release_itself(self, release) -> None:
        assert missing(release, (), SHIPPED, [], release.arches) == []

    def test_no_entry_without_a_manifest(self) -> None:
        addons = list_addons(MANIFESTS)
        assert set(SHIPPED.images) <= {image.ref for part in (*RELEASES, *addons) for image in part.images}
        assert set(SHIPPED.hosts) == {(release.release, host) for release in RELEASES for host in release.hosts}

    @pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.release)
    def test_whatever_is_lacking_is_lacking_by_name(self, release) -> None:
        """No package of a role is left out silently: it is locked, or unresolved with a reason."""
        for host in release.hosts:
            for need in needs(release, (), SHIPPED, [host], release.arches[:1]):
                assert not need.lacking or need.kind != "package" or need.reason, str(need)

    def test_every_release_has_its_addons(self) -> None:
        kinds = {
            "1.8": {"flannel", "dashboard", "heapster", "ingress-nginx", "registry", "prometheus"},
            "1.8-packages": {"kube-dns", "dashboard", "heapster", "ingress-nginx", "registry", "prometheus"},
            "1.20": {"flannel", "dashboard", "metrics-server", "ingress-nginx", "registry", "prometheus", "smoke"},
            "1.36": {"flannel", "dashboard", "metrics-server", "ingress-nginx", "registry", "prometheus", "smoke"},
        }
        kinds["1.20-docker"] = kinds["1.20"]
        for release in RELEASES:
            found = load_addons(MANIFESTS, release, sorted(kinds[release.release]))
            assert {addon.name for addon in found} == kinds[release.release]

    def test_default_of_the_release_that_is_installed_in_tests(self) -> None:
        release = load_release(MANIFESTS, "1.20")
        assert [addon.name for addon in load_addons(MANIFESTS, release, ())] == ["flannel", "smoke"]
        assert next(iter(release.hosts)) == "el7"

    def test_file_name_of_a_google_package_begins_with_its_digest(self) -> None:
        google = [package for package in packages() if "packages.cloud.google.com" in package.url]
        assert len(google) == 4
        assert all(package.filename.startswith(package.sha256) for package in google)


@pytest.fixture(scope="module")
def facts() -> dict[str, list[dict]]:
    """The rows of the collected facts, by sha256."""
    found: dict[str, list[dict]] = {}
    for path in PINS.glob("*.yaml"):
        for row in yaml.load(path.read_text(), Loader):
            if row.get("sha256"):
                found.setdefault(row["sha256"], []).append(row)
    return found


@needs_pins
class TestFacts:
    def test_packages(self, facts: dict[str, list[dict]]) -> None:
        for package in packages():
            rows = facts[package.sha256]
            own = (package.name, package.evr, package.size)
            same = [row for row in rows if own == (row["name"], row["version"], row["size"])]
            assert any(package.url == row["url"] for row in same), package
            assert any(package.source.split(" (")[0] in row["source"] for row in same), package
            self.says_so(package.source, same)

    def test_files(self, facts: dict[str, list[dict]]) -> None:
        for file in SHIPPED.files.values():
            same = [row for row in facts[file.sha256] if (file.url, file.size) == (row["url"], row["size"])]
            assert same
            self.says_so(file.source, [row for row in same if "verified" in row])

    def test_images(self, facts: dict[str, list[dict]]) -> None:
        for image in SHIPPED.images.values():
            tag, name = image.ref.rpartition(":")[2], image.ref.rpartition(":")[0].rpartition("/")[2]
            rows = facts[image.digest.removeprefix("sha256:")]
            same = [row for row in rows if row["name"].endswith(f"/{name}") and row["version"] == tag]
            assert same, image
            several = any(row["kind"] == "index" for row in same)
            assert (len(image.platforms) > 1) == several, image
            self.says_so(image.source, rows)

    def says_so(self, source: str, rows: list[dict]) -> None:
        """A fact that only one source gives is told as such."""
        alone = bool(rows) and all(row["verified"] == "one-source" for row in rows)
        assert ("(one source only)" in source) == alone, source

    def test_unresolved_means_that_there_is_no_fact(self, facts: dict[str, list[dict]]) -> None:
        known = {(row["name"], row["version"]) for rows in facts.values() for row in rows}
        refs = {image.ref for addon in list_addons(MANIFESTS) for image in addon.images} - set(SHIPPED.images)
        assert refs
        for ref in refs:
            assert tuple(ref.rsplit(":", 1)) not in known


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.release)
def test_every_single_package_counts(release) -> None:
    """Whatever package of a role goes, something is found lacking, unless it is a dependency: that is for the proof."""
    for (name, os_name), host in SHIPPED.hosts.items():
        if name != release.release:
            continue
        for arch, lock in host.arches.items():
            asked = [spec for specs in release.hosts[os_name].roles.values() for spec in specs]
            for gone in lock.packages:
                rest = tuple(package for package in lock.packages if package != gone)
                roles = {role: tuple(n for n in names if n != gone.filename) for role, names in lock.roles.items()}
                less = {**SHIPPED.hosts, (name, os_name): _with(host, arch, ArchLock(arch, rest, roles))}
                before = missing(release, (), SHIPPED, [os_name], ["amd64"])
                after = missing(release, (), Locks(SHIPPED.images, SHIPPED.files, less), [os_name], ["amd64"])
                direct = any(spec == gone.name or spec.startswith(f"{gone.name}-{gone.evr[0]}") for spec in asked)
                assert (len(after) == len(before) + 1) == direct, gone.name


def _with(host, arch: str, lock: ArchLock):
    return replace(host, arches={**host.arches, arch: lock})
