"""Debian versions, relations and apt metadata, without a server."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from bundler.errors import ResolveError
from bundler.resolve.apt import Index, parse_stanzas
from bundler.resolve.deb import DebSolver, parse_relations
from bundler.resolve.debver import Ranks, compare_versions
from bundler.resolve.openpgp import dearmor
from bundler.wanted import Repo

# from the oldest to the newest; deb-version(7)
ORDERED = [
    "~~", "~~a", "~", "0", "0.9~rc10", "0.9", "0.9a", "0.9+dfsg", "0.9.1", "1.0~beta1", "1.0-0ubuntu1", "1.0-1~bpo12+1",
    "1.0-1", "1.0-1+b1", "1.0-1.1", "1.0a-1", "1.0+git1-1", "1.00001-1", "1.2-1", "1.10-1", "1:0.1", "2:0",
]  # fmt: skip
EQUAL = [("1.0", "1.0-0"), ("1.0", "0:1.0"), ("1.01", "1.1"), ("1.0", "1.00"), ("1.", "1.0")]
REPO = Repo("main", "https://h/debian", ("https://h/key",), True, False, "stable", ("main",))


class TestVersions:
    @pytest.mark.parametrize(("older", "newer"), list(zip(ORDERED, ORDERED[1:])))
    def test_older_and_newer(self, older: str, newer: str) -> None:
        assert (compare_versions(older, newer), compare_versions(newer, older)) == (-1, 1)

    @pytest.mark.parametrize(("one", "other"), EQUAL)
    def test_equal(self, one: str, other: str) -> None:
        assert compare_versions(one, other) == 0

    @pytest.mark.skipif(not shutil.which("dpkg"), reason="needs dpkg")
    def test_as_dpkg(self) -> None:
        versions = [version for version in ORDERED if version[0].isdigit()]
        for one in versions:
            for other in versions[::3]:
                sign = compare_versions(one, other)
                operator = {-1: "lt", 0: "eq", 1: "gt"}[sign]
                assert subprocess.run(["dpkg", "--compare-versions", one, operator, other], check=False).returncode == 0

    def test_ranks_sort_and_turn_back(self) -> None:
        ranks = Ranks(["10", "9", "9~rc1", "9.0", "9.00"])
        assert [ranks.rank(version) for version in ("9~rc1", "9", "9.0", "9.00", "10")] == [
            "rank0", "rank1", "rank2", "rank2", "rank3",
        ]  # fmt: skip
        assert ranks.text("libc6 >= rank3 of a-rank0") == "libc6 >= 10 of a-9~rc1"


class TestRelations:
    def test_every_form(self) -> None:
        text = "a, b (>= 1:2~3), c:any (<< 4) | d:amd64 , e(=5), f (> 6), g [amd64], weird name"
        assert list(parse_relations(text)) == [
            [("a", "", "")], [("b", ">=", "1:2~3")], [("c:any", "<", "4"), ("d", "", "")], [("e", "=", "5")],
            [("f", ">=", "6")], [("g", "", "")], [("weird name", "", "")],
        ]  # fmt: skip

    def test_stanzas(self) -> None:
        text = "Package: a\nVersion: 1\nDescription: x\n y\nDepends: b,\n c\n\n\nPackage: d\n"
        assert list(parse_stanzas(text)) == [{"Package": "a", "Version": "1", "Depends": "b, c"}, {"Package": "d"}]


def choose(text: str, *specs: str, installed: tuple[str, ...] = (), keep: tuple[str, ...] = ()) -> set[str]:
    """Return ``name version`` of the closure; every package's sha256 is its name and version, padded."""
    stanzas = []
    for stanza in parse_stanzas(text):
        facts = {"Architecture": "amd64", "Filename": f"pool/{stanza['Package']}.deb", "SHA256": digest(stanza)}
        stanzas.append({**facts, **stanza})
    solver = DebSolver([Index(REPO, "https://h/InRelease", stanzas)], "amd64", installed, keep)
    return {f"{package.name} {package.evr}" for package in solver.roles("host", {"master": specs})["master"]}


def digest(stanza: dict[str, str]) -> str:
    return f"{stanza['Package']}-{stanza['Version']}".ljust(64, "0")


class TestClosure:
    def test_an_unversioned_provides_satisfies_no_version(self) -> None:
        text = "Package: a\nVersion: 1\nDepends: v (>= 1)\n\nPackage: p\nVersion: 9\nProvides: v\n"
        with pytest.raises(ResolveError, match="nothing provides v >= 1 needed by a-1"):
            choose(text, "a")
        assert choose(text.replace("Provides: v", "Provides: v (= 1.5)"), "a") == {"a 1", "p 9"}

    def test_any_architecture_only_where_it_is_allowed(self) -> None:
        text = "Package: a\nVersion: 1\nDepends: p:any\n\nPackage: p\nVersion: 9\n"
        with pytest.raises(ResolveError, match="p:any"):
            choose(text, "a")
        assert choose(text + "Multi-Arch: allowed\n", "a") == {"a 1", "p 9"}

    def test_a_declared_package_stands_for_any_version(self) -> None:
        text = "Package: a\nVersion: 1\nDepends: libc6 (>= 2.36), systemd\n"
        assert choose(text, "a", installed=("libc6", "systemd = 255")) == {"a 1"}
        with pytest.raises(ResolveError, match=r"nothing provides libc6 >= 2\.36"):
            choose(text, "a", installed=("libc6 = 2.31", "systemd"))

    def test_what_is_kept_stays_until_it_cannot(self) -> None:
        text = "Package: a\nVersion: 1\nDepends: b\n\nPackage: b\nVersion: 1\n\nPackage: b\nVersion: 2\n"
        kept = (digest({"Package": "b", "Version": "1"}),)
        assert choose(text, "a") == {"a 1", "b 2"}
        assert choose(text, "a", keep=kept) == {"a 1", "b 1"}
        assert choose(text.replace("Depends: b", "Depends: b (>= 2)"), "a", keep=kept) == {"a 1", "b 2"}

    def test_two_builds_of_one_package_are_never_both(self) -> None:
        text = "Package: a\nVersion: 1\n\nPackage: a\nVersion: 2\n"
        with pytest.raises(ResolveError, match="cannot be installed"):
            choose(text, "a-1", "a-2")

    def test_no_sha256(self) -> None:
        with pytest.raises(ResolveError, match="gives no SHA256 of a 1"):
            choose("Package: a\nVersion: 1\nSHA256: \n", "a")


class TestKeys:
    BINARY = b"\x99\x01key"
    ARMOR = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n{head}\nmQFrZXk=\n=abcd\n-----END PGP PUBLIC KEY BLOCK-----\n"

    @pytest.mark.parametrize("head", ["", "Version: GnuPG v1\nComment: x\n"])
    def test_armored(self, head: str) -> None:
        text = self.ARMOR.format(head=head).encode()
        assert dearmor(text) == self.BINARY
        assert dearmor(b"words\n" + text.replace(b"\n", b"\r\n") + text) == self.BINARY * 2

    def test_binary_and_neither(self) -> None:
        assert dearmor(self.BINARY) == self.BINARY
        for wrong in (b"", b"<html>", self.ARMOR.format(head="").replace("mQFrZXk=", "!!!").encode()):
            with pytest.raises(ResolveError, match="key of a repository"):
                dearmor(wrong)
