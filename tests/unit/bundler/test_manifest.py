from __future__ import annotations

import copy
import json
from pathlib import Path

import jsonschema
import pytest
import referencing
import yaml

from bundler.errors import ManifestError
from bundler.manifest import (
    Binary,
    Image,
    Repo,
    list_addons,
    load_addons,
    load_release,
    release_names,
    rpm_arch,
)

SHIPPED = Path(__file__).parents[3] / "manifests"
GOOD = yaml.load((SHIPPED / "1.20.yaml").read_text(), yaml.BaseLoader)
GOOD["schema"] = 1
del GOOD["hosts"]["el8"]
ADDON = yaml.load((SHIPPED / "addons/flannel-0.13.0.yaml").read_text(), yaml.BaseLoader)
ADDON["schema"] = 1


def schema(name: str) -> jsonschema.Draft202012Validator:
    documents = {path.name: json.loads(path.read_text()) for path in SHIPPED.glob("*.schema.json")}
    registry = referencing.Registry().with_resources(
        (key, referencing.Resource.from_contents(value)) for key, value in documents.items()
    )
    return jsonschema.Draft202012Validator(documents[name], registry=registry)


RELEASE_SCHEMA, ADDON_SCHEMA = schema("manifest.schema.json"), schema("addon.schema.json")


def write(directory: Path, name: str, document: dict) -> Path:
    """Write a manifest the way a person would: its date bare, so that YAML reads a date."""
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.dump(document)
    if isinstance(document.get("date"), str):
        text = text.replace(f"date: '{document['date']}'", f"date: {document['date']}")
    path.write_text(text)
    return path


def changed(document: dict, way: str, value: object) -> dict:
    """Return a copy with the value at ``a.b.0.c`` replaced, or removed where it is None."""
    document = copy.deepcopy(document)
    *parents, last = (int(part) if part.isdecimal() else part for part in way.split("."))
    place = document
    for part in parents:
        place = place[part]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return document


class TestShipped:
    @pytest.mark.parametrize("name", release_names(SHIPPED))
    def test_release_fits_reader_and_schema(self, name: str) -> None:
        release = load_release(SHIPPED, name)
        document = yaml.safe_load((SHIPPED / f"{name}.yaml").read_text())
        document["date"] = document["date"].isoformat()
        RELEASE_SCHEMA.validate(document)
        assert release.release == name
        networks = [addon for addon in load_addons(SHIPPED, release, ()) if addon.kind == "network"]
        assert len(networks) == (release.method == "kubeadm")

    @pytest.mark.parametrize("path", sorted((SHIPPED / "addons").glob("*.yaml")), ids=lambda path: path.stem)
    def test_addon_fits_reader_and_schema(self, path: Path) -> None:
        ADDON_SCHEMA.validate(yaml.safe_load(path.read_text()))
        assert path.stem in [f"{addon.name}-{addon.version}" for addon in list_addons(SHIPPED)]

    @pytest.mark.parametrize("addon", list_addons(SHIPPED), ids=lambda addon: f"{addon.name}-{addon.version}")
    def test_own_files_carry_what_the_addon_says(self, addon) -> None:
        own = [addon.directory / file.file for file in addon.manifests if file.file]
        texts = [path.read_text() for path in own]
        if len(own) < len(addon.manifests):
            return
        assert all(any(replace.old in text for text in texts) for replace in addon.replace)
        found = {line.split("image:")[1].strip() for text in texts for line in text.splitlines() if " image:" in line}
        assert found == {image.ref for image in addon.images}

    def test_releases_are_in_order_of_version(self) -> None:
        assert release_names(SHIPPED) == ["1.8", "1.8-packages", "1.20", "1.20-docker", "1.36"]


class TestRelease:
    @pytest.mark.parametrize("version", ["1.20", "1.20.2", "v1.20.2", "v1.20"])
    def test_all_spellings(self, version: str) -> None:
        release = load_release(SHIPPED, version)
        assert (release.kubernetes, release.date) == ("v1.20.2", 1610496000)
        assert Image("k8s.gcr.io/etcd:3.4.13-0", ("master",)) in release.images
        assert Image("k8s.gcr.io/pause:3.2", ("master", "node")) in release.images
        assert list(release.hosts) == ["el7", "el8", "debian12"]
        assert release.hosts["el7"].roles["node"][0] == "kubelet-1.20.2"

    @pytest.mark.parametrize("version", ["1.21", "1", "", "../1.20", "1.2", "v", "1.20.3", "latest"])
    def test_unknown_version_lists_the_known(self, version: str) -> None:
        with pytest.raises(ManifestError) as caught:
            load_release(SHIPPED, version)
        assert "1.20" in caught.value.message + caught.value.hint

    def test_placeholders(self) -> None:
        assert rpm_arch("arm64") == "aarch64"
        assert (
            Binary("b", "https://h/{arch}/b", "https://h/{arch}/b.sha256").for_arch("arm64").url == "https://h/arm64/b"
        )
        assert Repo("r", "https://h/{arch}/{rpmarch}/", ()).for_arch("amd64").baseurl == "https://h/amd64/x86_64"


# way, value: both the reader and the published schema refuse these
BAD = [
    ("schema", 2), ("schema", True), ("release", 1.2), ("release", "1.20.2"), ("kubernetes", "1.20.2"),
    ("date", "yesterday"), ("date", None), ("arches", []), ("arches", ["x86_64"]), ("arches", ["amd64", "amd64"]),
    ("kubeadm_api", "v1beta2"), ("runtime", "podman"), ("pause", "pause:3.2"), ("pod_subnet", "ten"),
    ("images", []), ("images", None), ("images.4", "kube-proxy:v1.20.2"), ("images.4", "k8s.gcr.io/kube-proxy"),
    ("images.4", "docker.io/busybox:1.33"), ("images.4", {"ref": "k8s.gcr.io/a:1"}),
    ("images.4", {"ref": "k8s.gcr.io/a:1", "roles": []}), ("images.4", {"ref": "k8s.gcr.io/a:1", "roles": ["worker"]}),
    ("images.4", {"ref": "k8s.gcr.io/a:1", "roles": ["node"], "tag": "2"}), ("images.4", 5), ("images", {"a": 1}),
    ("binaries.0.name", "../kubectl"), ("binaries.0.url", "ftp://h/kubectl"), ("binaries.0.checksum", None),
    ("binaries.0.sha256", "00"), ("addons", "flannel"), ("addons", ["Flannel"]), ("hosts", {}), ("hosts", None),
    ("hosts.el7.format", "deb"), ("hosts.el7.repos", []), ("hosts.el7.repos.0.baseurl", "/srv/repo"),
    ("hosts.el7.repos.0.keys", ["key.gpg"]), ("hosts.el7.repos.0.enabled", 1), ("hosts.el7.roles.worker", ["a"]),
    ("hosts.el7.roles.node", []), ("hosts.el7.roles.node", None), ("hosts.el7.roles.node", ["kubelet >= 1"]),
    ("hosts.el7.installed", ["a  b"]), ("hosts.el7.installed", ["glibc => 2"]), ("unknown", 1),
]  # fmt: skip

# what spans several keys: the reader alone refuses it
CROSS = [
    ("release", "1.21", "what the file is named after"),
    ("kubernetes", "v1.21.0", "not of release 1.20"),
    ("pause", "k8s.gcr.io/pause:3.3", "not among images"),
    ("pod_subnet", "10.96.0.0/16", "overlaps service_subnet"),
    ("pod_subnet", "10.244.0.1/16", "host bits set"),
    ("images.4", "k8s.gcr.io/pause:3.2", "given twice"),
    ("arches", ["amd64", "arm64"], "hold {arch}"),
    ("hosts.el7.repos.1.id", "kubernetes", "given twice"),
]


class TestRefused:
    @pytest.mark.parametrize(("way", "value"), BAD, ids=lambda part: str(part)[:40])
    def test_by_reader_and_schema(self, tmp_path: Path, way: str, value: object) -> None:
        document = changed(GOOD, way, value)
        path = write(tmp_path, "1.20.yaml", document)
        with pytest.raises(ManifestError) as caught:
            load_release(tmp_path, "1.20")
        assert caught.value.message.startswith(f"{path}: ")
        assert way.split(".")[0] in caught.value.message
        checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
        with pytest.raises(jsonschema.ValidationError):
            RELEASE_SCHEMA.evolve(format_checker=checker).validate(document)

    @pytest.mark.parametrize(("way", "value", "message"), CROSS, ids=lambda part: str(part)[:40])
    def test_across_keys(self, tmp_path: Path, way: str, value: object, message: str) -> None:
        document = changed(GOOD, way, value)
        if way == "arches":
            document = changed(document, "binaries.0.url", "https://dl.k8s.io/amd64/kubectl")
        write(tmp_path, "1.20.yaml", document)
        with pytest.raises(ManifestError, match=message):
            load_release(tmp_path, "1.20")

    def test_the_unchanged_manifest_passes(self, tmp_path: Path) -> None:
        write(tmp_path, "1.20.yaml", GOOD)
        RELEASE_SCHEMA.validate(GOOD)
        assert load_release(tmp_path, "1.20").hosts["el7"] == load_release(SHIPPED, "1.20").hosts["el7"]

    def test_bare_version_is_a_number_and_the_message_says_so(self, tmp_path: Path) -> None:
        text = (SHIPPED / "1.20.yaml").read_text().replace('"1.20"', "1.20")
        (tmp_path / "1.20.yaml").write_text(text)
        with pytest.raises(ManifestError, match=r'release: must be text: write release: "1.2"'):
            load_release(tmp_path, "1.20")

    def test_key_given_twice(self, tmp_path: Path) -> None:
        (tmp_path / "1.20.yaml").write_text((SHIPPED / "1.20.yaml").read_text() + "runtime: docker\n")
        with pytest.raises(ManifestError, match="key given twice: runtime"):
            load_release(tmp_path, "1.20")

    @pytest.mark.parametrize("text", ["a: [", "\t", "- 1", "", "a: 1\n---\nb: 1\n", "\x00"])
    def test_no_mapping(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "1.20.yaml").write_text(text)
        with pytest.raises(ManifestError, match=r"1\.20\.yaml: "):
            load_release(tmp_path, "1.20")


BAD_ADDON = [
    ("kind", "cni"), ("releases", []), ("releases", ["1"]), ("manifests", []), ("manifests.0", {}),
    ("manifests.0", {"url": "https://h/a.yaml", "file": "a.yaml"}), ("manifests.0", {"file": "../a.yaml"}),
    ("manifests.0", {"url": "https://h/dir/"}), ("replace.0.to", None), ("replace.0.from", "a\tb"),
    ("images.0", "flannel"), ("addon", "Flannel"), ("version", None), ("extra", 1),
]  # fmt: skip


class TestAddons:
    @pytest.mark.parametrize(("way", "value"), BAD_ADDON, ids=lambda part: str(part)[:40])
    def test_refused_by_reader_and_schema(self, tmp_path: Path, way: str, value: object) -> None:
        document = changed(ADDON, way, value)
        write(tmp_path, "addons/flannel-0.13.0.yaml", document)
        with pytest.raises(ManifestError, match=way.split(".")[0]):
            list_addons(tmp_path)
        with pytest.raises(jsonschema.ValidationError):
            ADDON_SCHEMA.validate(document)

    def test_two_files_of_one_name(self, tmp_path: Path) -> None:
        document = changed(ADDON, "manifests", [{"url": "https://h/a/x.yaml"}, {"url": "https://h/b/x.yaml"}])
        write(tmp_path, "addons/flannel-0.13.0.yaml", document)
        with pytest.raises(ManifestError, match=r"two files are named x\.yaml"):
            list_addons(tmp_path)

    def test_file_name_says_the_version(self, tmp_path: Path) -> None:
        write(tmp_path, "addons/flannel.yaml", ADDON)
        with pytest.raises(ManifestError, match=r"must be named flannel-0\.13\.0\.yaml"):
            list_addons(tmp_path)

    def test_own_ones_come_first_and_none_twice(self) -> None:
        release = load_release(SHIPPED, "1.20")
        assert [addon.name for addon in load_addons(SHIPPED, release, ["smoke", "flannel"])] == ["flannel", "smoke"]

    def test_unknown_one_lists_the_known(self) -> None:
        with pytest.raises(ManifestError) as caught:
            load_addons(SHIPPED, load_release(SHIPPED, "1.20"), ["calico"])
        assert "dashboard, flannel, ingress-nginx" in caught.value.hint

    def test_asked_network_takes_the_place_of_the_own_one(self, tmp_path: Path) -> None:
        write(tmp_path, "addons/flannel-0.13.0.yaml", ADDON)
        write(tmp_path, "addons/smoke-1.yaml", {**ADDON, "addon": "smoke", "version": "1", "kind": "sample"})
        write(tmp_path, "addons/calico-3.yaml", {**ADDON, "addon": "calico", "version": "3"})
        write(tmp_path, "addons/weave-2.yaml", {**ADDON, "addon": "weave", "version": "2"})
        release = load_release(SHIPPED, "1.20")
        assert [addon.name for addon in load_addons(tmp_path, release, ["calico"])] == ["smoke", "calico"]
        with pytest.raises(ManifestError, match="two network add-ons, calico and weave"):
            load_addons(tmp_path, release, ["calico", "weave"])

    def test_two_versions_for_one_release(self, tmp_path: Path) -> None:
        write(tmp_path, "addons/flannel-0.13.0.yaml", ADDON)
        write(tmp_path, "addons/flannel-0.14.0.yaml", {**ADDON, "version": "0.14.0"})
        with pytest.raises(ManifestError, match=r"both 0\.13\.0 and 0\.14\.0 fit release 1\.20"):
            load_addons(tmp_path, load_release(SHIPPED, "1.20"), [])


DEB = changed(GOOD, "hosts", {
    "noble": {
        "format": "deb",
        "repos": [
            {"id": "main", "baseurl": "http://h/ubuntu/", "suite": "noble", "components": ["main", "universe"],
             "keys": ["https://h/key.gpg"]},
            {"id": "k8s", "baseurl": "https://h/{arch}/deb", "suite": "/", "keys": ["https://h/key.asc"]},
        ],
        "installed": ["libc6", "systemd >= 255"],
        "roles": {"master": ["kubelet-1.20.2-1.1"], "node": ["kubelet"]},
    }
})  # fmt: skip
BAD_DEB = [
    ("hosts.noble.repos.0.suite", None, r"repos\[0\]\.suite: is missing"),
    ("hosts.noble.repos.0.components", None, r"repos\[0\]\.components: must have at least one entry"),
    ("hosts.noble.repos.0.keys", None, r"repos\[0\]\.keys: must have at least one entry"),
    ("hosts.noble.repos.0.keys", [], r"repos\[0\]\.keys: must have at least one entry"),
    ("hosts.noble.repos.1.components", ["main"], r"a flat repository \(/\) has none"),
    ("hosts.noble.repos.0.module_hotfixes", True, r"repos\[0\]\.module_hotfixes: unknown key"),
    ("hosts.noble.modules", ["perl:5.26"], r"modules: unknown key"),
    ("hosts.noble.format", "apk", "'apk' is unknown"),
]
BAD_RPM = [
    ("hosts.el7.repos.0.suite", "stable", r"repos\[0\]\.suite: unknown key"),
    ("hosts.el7.repos.0.signed_metadata", "yes", "must be true or false"),
    ("hosts.el7.modules", ["perl"], "is not of the form"),
    ("method", "helm", "'helm' is unknown"),
    ("method", "packages", r"kubeadm_api: has no meaning where method is packages"),
    ("kubeadm_api", None, "kubeadm_api: is missing"),
]


class TestDebHost:
    def test_reader_and_schema(self, tmp_path: Path) -> None:
        write(tmp_path, "1.20.yaml", DEB)
        RELEASE_SCHEMA.validate(DEB)
        host = load_release(tmp_path, "1.20").hosts["noble"]
        main, flat = (repo.for_arch("arm64") for repo in host.repos)
        assert (main.baseurl, main.suite, main.components) == ("http://h/ubuntu", "noble", ("main", "universe"))
        assert (flat.baseurl, flat.suite, flat.components) == ("https://h/arm64/deb", "/", ())
        assert main.signed_metadata
        assert flat.signed_metadata
        assert (host.format, host.arch("ppc64le"), host.modules) == ("deb", "ppc64el", ())
        assert load_release(SHIPPED, "1.20").hosts["el7"].arch("arm64") == "aarch64"

    @pytest.mark.parametrize(("way", "value", "message"), BAD_DEB, ids=lambda value: str(value)[:40])
    def test_refused_by_both(self, tmp_path: Path, way: str, value: object, message: str) -> None:
        document = changed(DEB, way, None) if value is None else placed(DEB, way, value)
        self.refused(tmp_path, document, message)

    @pytest.mark.parametrize(("way", "value", "message"), BAD_RPM, ids=lambda value: str(value)[:40])
    def test_rpm_refused_by_both(self, tmp_path: Path, way: str, value: object, message: str) -> None:
        document = changed(GOOD, way, None) if value is None else placed(GOOD, way, value)
        self.refused(tmp_path, document, message)

    def refused(self, folder: Path, document: dict, message: str) -> None:
        assert not RELEASE_SCHEMA.is_valid(document)
        write(folder, "1.20.yaml", document)
        with pytest.raises(ManifestError, match=message):
            load_release(folder, "1.20")


class TestVariants:
    def test_a_variant_by_every_name(self) -> None:
        for version in ("1.20-docker", "v1.20.2-docker", "1.20.2-docker"):
            release = load_release(SHIPPED, version)
            assert (release.release, release.runtime, release.kubernetes) == ("1.20-docker", "docker", "v1.20.2")
        for version in ("1.20.3-docker", "1.20-podman", "1.20-", "docker"):
            with pytest.raises(ManifestError):
                load_release(SHIPPED, version)

    def test_packages_are_no_kubeadm(self) -> None:
        release = load_release(SHIPPED, "1.8-packages")
        assert (release.method, release.kubeadm_api, release.image_repository) == ("packages", "", "")
        assert load_release(SHIPPED, "1.8").method == "kubeadm"

    def test_addons_of_a_release_fit_its_variants_and_not_the_other_way_round(self) -> None:
        docker, plain, packages = (load_release(SHIPPED, name) for name in ("1.20-docker", "1.20", "1.8-packages"))
        assert load_addons(SHIPPED, docker, ["dashboard"])[-1] == load_addons(SHIPPED, plain, ["dashboard"])[-1]
        assert load_addons(SHIPPED, packages, ["kube-dns"])[-1].version == "1.14.5"
        with pytest.raises(ManifestError, match=r"no add-on kube-dns for release 1\.8"):
            load_addons(SHIPPED, load_release(SHIPPED, "1.8"), ["kube-dns"])


def placed(document: dict, way: str, value: object) -> dict:
    """Return a copy with a value at ``a.b.0.c``, whether or not there was one."""
    document = copy.deepcopy(document)
    *parents, last = (int(part) if part.isdecimal() else part for part in way.split("."))
    place = document
    for part in parents:
        place = place[part]
    place[last] = value
    return document
