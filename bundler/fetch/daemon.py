"""Images out of the local Docker daemon, where it still has the very bytes that the lock names.

Only a daemon with the containerd image store does (the default of new installations since Docker 29): its `docker save`
gives manifests and compressed layers as they were pulled. The classic store keeps neither, only unpacked layers, so
nothing that it saves has a digest of the lock.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from contextlib import closing
from typing import IO, Any, BinaryIO

import docker
import requests
from docker.errors import DockerException

from bundler.errors import HostError
from bundler.store import CHUNK, Store

CONTAINERD_STORE = ["driver-type", "io.containerd.snapshotter.v1"]
BLOBS = "blobs/sha256/"
SECONDS = 60
HINT = "start it or set DOCKER_HOST, or leave --docker out"
CLASSIC_HINT = (
    'put "features": {"containerd-snapshotter": true} into /etc/docker/daemon.json, restart it and pull anew, '
    "or leave --docker out"
)


class Daemon:
    """A source for ``store``: an image is saved, with all its blobs, when its manifest or index is asked for."""

    def __init__(self, store: Store) -> None:
        """Ask the daemon of DOCKER_HOST what it has. HostError if there is none, or it has the classic image store."""
        self.path = store.root
        self._store = store
        try:
            with closing(docker.from_env(timeout=SECONDS)) as client:
                if CONTAINERD_STORE not in (client.api.info().get("DriverStatus") or []):
                    raise HostError("Docker keeps its images in the classic store, without their digests", CLASSIC_HINT)
                self._images = _by_digest(client.api.images())
        except (DockerException, requests.RequestException) as error:
            raise HostError(f"the Docker daemon does not answer: {error}", HINT) from error

    def open(self, sha256: str, size: int | None) -> BinaryIO | None:  # noqa: ARG002
        """Open a manifest or index, once its blobs are in the store; None if the daemon has no image of this digest.

        HostError if the daemon fails.
        """
        image = self._images.pop(sha256, None)
        return io.BytesIO(self._save(image, sha256)) if image else None

    def _save(self, image: str, top: str) -> bytes:
        """Put all blobs of an image into the store but ``top``, whose bytes are returned: the caller has it locked."""
        found = b""
        try:
            with closing(docker.from_env(timeout=SECONDS)) as client:
                stream = io.BufferedReader(_Chunks(client.api.get_image(image)), CHUNK)
                with tarfile.open(fileobj=stream, mode="r|") as tar:
                    for member in tar:
                        sha256 = member.name[len(BLOBS) :] if member.name.startswith(BLOBS) else ""
                        content = tar.extractfile(member) if sha256 else None
                        if content and sha256 == top:
                            found = content.read()
                        elif content and not self._store.has(sha256, member.size):
                            self._add(sha256, member.size, content)
        except (DockerException, requests.RequestException, tarfile.TarError) as error:
            raise HostError(f"the Docker daemon cannot save {image}: {error}", HINT) from error
        return found

    def _add(self, sha256: str, size: int, content: IO[bytes]) -> None:
        with self._store.partial(sha256) as partial:
            partial.restart()
            while data := content.read(CHUNK):
                partial.write(data)
            if not partial.finish(size):
                partial.restart()


def _by_digest(images: list[dict[str, Any]]) -> dict[str, str]:
    """Return the daemon's name of each image by the sha256 of its manifest or index."""
    digests = {image["Id"]: image.get("RepoDigests") or [] for image in images}
    return {name.rpartition("@sha256:")[2]: image for image, names in digests.items() for name in names}


class _Chunks(io.RawIOBase):
    """What an iterator of bytes gives, as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        self._rest = self._rest or next(self._chunks, b"")
        data, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)
