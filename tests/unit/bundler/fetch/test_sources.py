import json
import random
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from bundler.errors import HostError, IntegrityError
from bundler.fetch.http import Blob, Client
from bundler.fetch.sources import Bundle, Folder, open_source
from bundler.store import Store
from tests.servers.faults import sha256

FILES = {"bin/amd64/kubectl": random.Random(1).randbytes(700_000), "images/oci-layout": b"{}", "lists/images": b""}
GONE = "http://gone.invalid/kubectl"


def write_bundle(path: Path, lie: bool = False) -> Path:
    listed = [{"path": name, "sha256": sha256(data), "size": len(data)} for name, data in FILES.items()]
    members = {"bundle.json": json.dumps({"schema": 1, "files": listed}).encode(), **FILES}
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, BytesIO(data[::-1] if lie and name.startswith("bin") else data))
    return path


def write_folder(path: Path) -> Path:
    for number, data in enumerate(FILES.values()):
        (path / "deep").mkdir(parents=True, exist_ok=True)
        (path / "deep" / f"{number}.bin").write_bytes(data)
    (path / "deep" / "same size").write_bytes(bytes(700_000))
    return path


@pytest.mark.parametrize("kind", ["bundle", "folder"])
@pytest.mark.parametrize("known", [True, False])
def test_a_vanished_upstream_costs_nothing(tmp_path: Path, client: Client, kind: str, known: bool) -> None:
    source = open_source(write_bundle(tmp_path / "old.tar") if kind == "bundle" else write_folder(tmp_path / "usb"))
    store = Store(tmp_path / "cache", [source])
    for name, data in FILES.items():
        blob = Blob(name, GONE, sha256(data), len(data) if known else None)
        client.download(blob, store, lambda _: None)
        assert store.read(blob.sha256) == data
    assert store.find(sha256(FILES["images/oci-layout"]))
    assert not store.find(sha256(b"something else"))


def test_a_source_that_lies_is_passed_over(tmp_path: Path) -> None:
    data = FILES["bin/amd64/kubectl"]
    liar, honest = Bundle(write_bundle(tmp_path / "liar.tar", lie=True)), Folder(write_folder(tmp_path / "usb"))
    assert not Store(tmp_path / "one", [liar]).find(sha256(data), len(data))
    store = Store(tmp_path / "two", [liar, honest])
    assert store.find(sha256(data), len(data)) and store.read(sha256(data)) == data


def test_files_of_other_sizes_are_not_even_read(tmp_path: Path) -> None:
    folder = Folder(write_folder(tmp_path / "usb"))
    for path in (tmp_path / "usb" / "deep").iterdir():
        path.unlink()
    assert folder.open("0" * 64, 12345) is None


def test_what_is_no_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="absent: there is no such folder or bundle"):
        open_source(tmp_path / "absent")
    (tmp_path / "text").write_text("no tar")
    with pytest.raises(IntegrityError, match="text: not a bundle"):
        open_source(tmp_path / "text")
    with tarfile.open(tmp_path / "other.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("x"), BytesIO())
    with pytest.raises(IntegrityError, match="other.tar: not a bundle"):
        open_source(tmp_path / "other.tar")
