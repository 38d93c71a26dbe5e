"""A real dockerd (Debian's 20.10): what it takes from the server over TLS, and what a node loads into it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bundler.errors import HostError
from bundler.fetch.daemon import Daemon
from bundler.store import Store
from tests.bundles import add_image, make_bundle
from tests.integration.runtime import running_docker
from tests.lab import net
from tests.lab.lab import SWITCH_ADDRESS, Lab
from tests.lab.teardown import down
from tests.serving import Server, serving
from tests.shell.stream import Shell

pytestmark = [pytest.mark.root, pytest.mark.lab]

PAUSE, OTHER = "k8s.gcr.io/pause:3.2", "docker.io/library/busybox:1.33"


def layer(text: str) -> bytes:
    """A layer as registries keep it."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        entry = tarfile.TarInfo("file")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text.encode()))
    return gzip.compress(tar.getvalue(), mtime=0)


@dataclass
class Site:
    """A bundle of two images, served over TLS at the switch of a lab, and a dockerd there."""

    server: Server
    members: dict[str, bytes]
    images: dict[str, dict[str, Any]]
    host: str
    etc: Path

    def docker(self, *words: str, given: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        command = ["/usr/bin/docker", "-H", self.host, *words]
        return subprocess.run(command, input=given, capture_output=True, timeout=120)

    def out(self, *words: str) -> str:
        done = self.docker(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode().strip()

    def parts(self, ref: str) -> list[str]:
        """Digests of an image's config and layers."""
        manifest = json.loads(self.members[f"images/blobs/sha256/{self.images[ref]['digest'][7:]}"])
        return [part["digest"] for part in [manifest["config"], *manifest["layers"]]]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder, lab = tmp_path_factory.mktemp("dockerd"), Lab("test-docker-client")
    down(lab)
    net.up(lab)
    inside = folder / "python"
    inside.write_text(f'#!/bin/sh\nexec ip netns exec {lab.switch} {sys.executable} "$@"\n')
    inside.chmod(0o755)
    members: dict[str, bytes] = {}
    base = layer("base\n")
    images = {ref: add_image(members, ref, [base, layer(ref), base], index=True) for ref in (PAUSE, OTHER)}
    for ref, image in images.items():  # the index's first child: the manifest itself
        top = json.loads(members[f"images/blobs/sha256/{image['digest'][7:]}"])
        members[f"manifest {ref}"] = top["manifests"][0]["digest"].encode()
    tops = {ref: members.pop(f"manifest {ref}").decode() for ref in images}
    bundle = make_bundle(folder / "b.tar", members, list(images.values()))
    try:
        with serving(bundle, folder, "--tls", host=SWITCH_ADDRESS, python=str(inside)) as server, \
                running_docker(folder, lab.switch) as host:
            yield Site(server, members, {ref: {**images[ref], "digest": tops[ref], "index": images[ref]["digest"]}
                                         for ref in images}, host, folder / "etc")
    finally:
        down(lab)


@pytest.fixture
def node(site: Site, tmp_path: Path) -> Shell:
    """The functions of deploy.sh, with the images' blobs fetched already, and docker on its path."""
    shell = Shell(tmp_path)
    cache = shell.state / "cache"
    lines, layers = [], []
    for ref, image in site.images.items():
        lines.append(f"{image['index']} {ref} master,node\n")
        layers.append(" ".join([image["index"], "amd64", *site.parts(ref)]) + "\n")
    for path, data in {**site.members, "lists/images": "".join(lines).encode(), "lists/layers": "".join(layers).encode()
                       }.items():  # fmt: skip
        (cache / path).parent.mkdir(parents=True, exist_ok=True)
        (cache / path).write_bytes(data)
    return shell


def on(site: Site, shell: Shell, body: str) -> subprocess.CompletedProcess[str]:
    return shell.run(f"NODE_RUNTIME=docker HOST_ARCH=amd64 ROLE=node; {body}", env={"DOCKER_HOST": site.host})


def test_docker_pulls_by_the_original_name_with_the_ca_of_the_server_alone(site: Site) -> None:
    place = site.server.url.removeprefix("https://")
    name = f"{place}/{PAUSE}"
    refused = site.docker("pull", name)
    assert refused.returncode != 0
    assert b"x509" in refused.stderr
    shell = Shell(site.etc.parent / "trusting", {"SERVER": site.server.url, "SERVER_CA": ca(site)})
    given = shell.run(f"put_file() {{ mkdir -p {site.etc}/${{2#/etc/docker/}}; rmdir {site.etc}/${{2#/etc/docker/}}; "
                      f"cat >{site.etc}/${{2#/etc/docker/}}; }}; docker_trust_server")  # fmt: skip
    assert given.returncode == 0, given.stderr
    assert (site.etc / "certs.d" / place / "ca.crt").read_text() == ca(site)
    site.out("pull", name)
    assert site.out("image", "inspect", "-f", "{{json .RepoDigests}} {{.Id}}", name) == (
        f'["{place}/k8s.gcr.io/pause@{site.images[PAUSE]["index"]}"] {site.parts(PAUSE)[0]}'
    )
    site.out("image", "rm", name)
    (site.etc / "certs.d" / place / "ca.crt").write_text(other_ca(site.etc.parent))
    assert b"x509" in site.docker("pull", name).stderr


def ca(site: Site) -> str:
    return (site.server.output.parent / "state/ca.pem").read_text()


def other_ca(folder: Path) -> str:
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-subj", "/CN=other", "-keyout", f"{folder}/o.key", "-out", f"{folder}/o.pem"]  # fmt: skip
    subprocess.run(words, check=True, capture_output=True)
    return (folder / "o.pem").read_text()


def test_a_node_loads_what_is_missing_and_knows_it_again(site: Site, node: Shell) -> None:
    missing = on(site, node, "missing_images").stdout
    assert [line.split(" ")[1] for line in missing.splitlines()] == [PAUSE, OTHER]
    done = on(site, node, f"docker_get_image {site.images[PAUSE]['index']} {PAUSE}; missing_images")
    assert done.stdout.split(" ")[1:] == [f"{OTHER}\n"], done.stderr
    assert site.out("image", "inspect", "-f", "{{.Id}}", PAUSE) == site.parts(PAUSE)[0]
    done = on(site, node, f"docker_get_image {site.images[OTHER]['index']} {OTHER}; missing_images")
    assert done.stdout == "", done.stderr
    site.out("image", "rm", PAUSE, OTHER)


def test_another_content_than_the_lock_s_is_refused(site: Site, node: Shell) -> None:
    """Whatever got past SHA256SUMS: a layer that is not what the config says, a config that is another image's."""
    bad = node.state / "cache/images/blobs/sha256" / site.parts(PAUSE)[2][7:]
    good = bad.read_bytes()
    bad.write_bytes(layer("changed\n"))
    done = on(site, node, f"docker_get_image {site.images[PAUSE]['index']} {PAUSE} || echo refused")
    assert done.stdout == "refused\n"
    assert f"{PAUSE} ({site.images[PAUSE]['index']}) could not be loaded into docker: " in done.stderr
    bad.write_bytes(good)
    config = node.state / "cache/images/blobs/sha256" / site.parts(PAUSE)[0][7:]
    config.write_bytes(config.read_bytes() + b"\n")
    done = on(site, node, f"docker_get_image {site.images[PAUSE]['index']} {PAUSE}; missing_images")
    assert PAUSE in done.stdout, "another image than the lock's took the name: it still counts as missing"
    assert site.out("image", "inspect", "-f", "{{.Id}}", PAUSE) == (
        f"sha256:{hashlib.sha256(config.read_bytes()).hexdigest()}"
    )
    site.out("image", "rm", PAUSE)


def test_images_of_others_get_their_names_back(site: Site, node: Shell) -> None:
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}).encode()
    archive = io.BytesIO()
    tags = json.dumps([{"Config": "c.json", "RepoTags": [PAUSE, "mine:1"], "Layers": []}]).encode()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, data in (("c.json", config), ("manifest.json", tags)):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    assert site.docker("load", given=archive.getvalue()).returncode == 0
    before = sorted(site.out("image", "ls", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}").splitlines())
    assert len(before) == 2
    body = ("for ref in " + " ".join(f"{i['index']}={ref}" for ref, i in site.images.items()) +
            "; do docker_get_image ${ref%%=*} ${ref#*=}; done; undo_all")
    node.stub("systemctl", "exit 0")  # this dockerd is no service
    done = on(site, node, body)
    assert done.returncode == 0, done.stderr
    after = sorted(site.out("image", "ls", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}").splitlines())
    assert after == before
    site.out("image", "rm", PAUSE, "mine:1")


def test_a_daemon_of_the_classic_store_is_no_source_for_a_build(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", site.host)
    with pytest.raises(HostError, match="classic store, without their digests"):
        Daemon(Store(tmp_path / "store"))


def test_it_left_this_machine_alone(site: Site) -> None:
    """The dockerd of these tests has a network of its own; nothing of it may show outside."""
    assert not Path("/sys/class/net/docker0").exists()
    assert not Path("/etc/docker/key.json").exists()
