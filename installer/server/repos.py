"""What describes the bundle's packages to yum, dnf and apt: ready files for /etc, with this server's own URL."""

import base64
from functools import partial
from typing import Callable, Dict, List

from ..bundle import Bundle
from ..contract import Host

_YUM_CA = "/etc/pki/tls/certs/kubecarry.pem"
_APT_CA = "/etc/apt/kubecarry.pem"
_ARMOR = b"-----BEGIN PGP"


class Repos:
    """`paths`: the URL paths it answers: `/repo/<os>.repo` and `/repo/<os>-<role>.repo`, or `/repo/<os>.sources` and
    `/repo/<os>.list`."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        kinds: Dict[str, Dict[str, Callable[[Host, str], List[str]]]] = {
            "rpm": {"repo": self._repo}, "deb": {"sources": self._sources, "list": self._list}}
        self.paths = {"/repo/{}.{}".format(host.name, suffix): (host, make)
                      for host in bundle.info.hosts for suffix, make in kinds.get(host.format, {}).items()}
        self.paths.update(
            ("/repo/{}-{}.repo".format(host.name, role), (host, partial(self._repo, role=role)))
            for host in bundle.info.hosts for role in host.roles if self._has(host, role + "/repodata/repomd.xml"))

    def render(self, path: str, server: str) -> bytes:
        """The file of one of `paths` for `server`, a URL without a slash at its end. Raises IntegrityError, OSError."""
        host, make = self.paths[path]
        return ("\n".join(make(host, server)) + "\n").encode("utf-8")

    def _repo(self, host: Host, server: str, role: str = "") -> List[str]:
        """For /etc/yum.repos.d: everything of the host, or what a role consists of."""
        top, below = ("-" + role, role + "/") if role else ("", "")
        lines = ["[kubecarry{}]".format(top),
                 "name=Kubecarry {} for {}{}".format(self._bundle.info.release, host.name, top),
                 "baseurl={}/{}/{}".format(server, host.path, below), "enabled=1",
                 "module_hotfixes=1"]  # the bundle is chosen already: no stream is to hide a part of it
        if server.startswith("https:"):
            lines += [_ca_note(server, _YUM_CA), "sslcacert=" + _YUM_CA]
        if not host.keys:
            return ["# The bundle carries no key for these packages: they are not checked.", *lines, "gpgcheck=0"]
        lines += ["gpgcheck=1", "gpgkey=" + " ".join("{}/{}".format(server, key) for key in host.keys)]
        if self._signed(host, below + "repodata/repomd.xml.asc"):
            lines.append("repo_gpgcheck=1")
        return lines

    def _sources(self, host: Host, server: str) -> List[str]:
        """For /etc/apt/sources.list.d, with the keys inside; apt 2.4 and later."""
        lines = [*_apt_note(server), "Types: deb", "URIs: {}/{}/".format(server, host.path), "Suites: ./"]
        if not self._signed(host, "InRelease"):
            return ["# The bundle's repository is not signed: it is not checked.", *lines, "Trusted: yes"]
        key = armored(self._bundle.read(host.repo_key)).split("\n")
        return [*lines, "Signed-By:", *[" " + (line or ".") for line in key]]

    def _list(self, host: Host, server: str) -> List[str]:
        """The same in one line, with the key in a file, for any apt."""
        if not self._signed(host, "InRelease"):
            return [*_apt_note(server), "# The bundle's repository is not signed: it is not checked.",
                    "deb [trusted=yes] {}/{}/ ./".format(server, host.path)]
        name = "/etc/apt/keyrings/kubecarry." + host.repo_key.rpartition(".")[2]
        return [*_apt_note(server),
                "# First: mkdir -p /etc/apt/keyrings; curl -fsSL{} {}/{} -o {}".format(
                    " --cacert " + _APT_CA if server.startswith("https:") else "", server, host.repo_key, name),
                "deb [signed-by={}] {}/{}/ ./".format(name, server, host.path)]

    def _signed(self, host: Host, signature: str) -> bool:
        return bool(host.repo_key) and self._has(host, signature)

    def _has(self, host: Host, name: str) -> bool:
        return "{}/{}".format(host.path, name) in self._bundle.members


def _ca_note(server: str, path: str) -> str:
    return "# First: put {}/ca.pem at {}, fetched with the words of curl that `serve` printed.".format(server, path)


def _apt_note(server: str) -> List[str]:
    if not server.startswith("https:"):
        return []
    return [_ca_note(server, _APT_CA), '# And to apt.conf.d: Acquire::https::{}::CaInfo "{}";'.format(
        server.partition("://")[2].rpartition(":")[0], _APT_CA)]


def armored(key: bytes) -> str:
    """An OpenPGP key as text, whichever form it has."""
    if key.lstrip().startswith(_ARMOR):
        return key.decode("utf-8", "replace").strip()
    lines = [base64.b64encode(key[at:at + 48]).decode("ascii") for at in range(0, len(key), 48)]
    lines.append("=" + base64.b64encode(_crc24(key).to_bytes(3, "big")).decode("ascii"))
    return "\n".join(["-----BEGIN PGP PUBLIC KEY BLOCK-----", "", *lines, "-----END PGP PUBLIC KEY BLOCK-----"])


def _crc24(data: bytes) -> int:
    """The checksum of RFC 4880, section 6.1."""
    crc = 0xB704CE
    for byte in data:
        crc ^= byte << 16
        for _ in range(8):
            crc <<= 1
            if crc & 0x1000000:
                crc ^= 0x1864CFB
    return crc
