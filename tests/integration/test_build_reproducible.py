"""The same lock gives the same bytes, whoever builds it, wherever, and however often it is killed."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.upstream import site as upstream
from tests.integration.upstream.site import OPTIONS, Site

pytestmark = pytest.mark.root

PROJECT = Path(__file__).parents[2]
NOBODY = "65534"
KILLS = 20


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_same_bytes_for_everyone(site: Site, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Other directory, user, umask, locale, time zone, workers and an empty cache; the project is a copy, too."""
    # Not below pytest's own directory, which nobody else may enter.
    elsewhere = Path(os.path.realpath(f"/var/tmp/kubecarry-test-{os.getpid()}"))
    try:
        for part in ("manifests", "locks"):
            shutil.copytree(site.root / part, elsewhere / "a b" / part)
        for part in ("bundler", "installer", "manifests"):
            shutil.copytree(PROJECT / part, elsewhere / "project" / part)
        site_packages = next(path for path in sys.path if path.endswith("site-packages"))
        shutil.copytree(site_packages, elsewhere / "lib", ignore=shutil.ignore_patterns("mypy", "ruff*", "pip"))
        subprocess.run(["chown", "-R", NOBODY, elsewhere], check=True)
        command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "sh", "-c",
                   'umask 077; exec "$@"', "sh", "/usr/bin/python3", "-m", "bundler", "build", *OPTIONS, *site.mirrors,
                   "-j", "1"]
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{elsewhere}/project:{elsewhere}/lib", "LC_ALL": "C",
               "TZ": "Asia/Kathmandu", "HOME": str(elsewhere), "PYTHONHASHSEED": "7"}
        done = subprocess.run(command, cwd=elsewhere / "a b", env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        other = elsewhere / "a b" / bundle.name
        assert other.stat().st_uid == int(NOBODY)
        assert other.stat().st_mode & 0o777 == 0o600
        assert digest(other) == digest(bundle)
    finally:
        shutil.rmtree(elsewhere, ignore_errors=True)


@pytest.mark.parametrize(
    "env", [{"LC_ALL": "C.UTF-8", "TZ": "America/St_Johns"}, {"LC_ALL": "POSIX", "TZ": "UTC-14"}]
)
def test_same_bytes_with_a_warm_cache(site: Site, bundle: Path, env: dict[str, str]) -> None:
    site.run("build", "-j", "16", "-o", "warm.tar", env=env)
    assert digest(site.root / "warm.tar") == digest(bundle)
    (site.root / "warm.tar").unlink()


@pytest.fixture(scope="module")
def slow_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An upstream slow enough to be interrupted in the middle of its files."""
    with upstream.serve(tmp_path_factory.mktemp("slow"), rate=4_000_000, payload=1_000_000) as found:
        found.run("lock")
        yield found


def finished(site: Site) -> set[str]:
    """The digests of what is whole in the cache."""
    return {path.name for path in (site.root / "cache" / "sha256").glob("*/*")}


def asked(site: Site) -> Counter[str]:
    """How often each file or blob was asked for so far, by digest."""
    paths = [site.files.root / path.lstrip("/") for path in site.files.log]
    return Counter([*(digest(path) for path in paths), *site.registry.blobs])


class Run:
    """A build in the background, from its first request on: before that there is nothing to lose."""

    def __init__(self, site: Site) -> None:
        before = len(site.files.log)
        environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
        self.process = subprocess.Popen(site.command("build", "-o", "out.tar", "-q", "-j", "3"), cwd=site.root,
                                        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while len(site.files.log) == before and self.process.poll() is None:
            time.sleep(0.001)
        self.start = time.monotonic()

    def end(self) -> None:
        """Let it end, which must be well."""
        _, errors = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, errors

    def kill_after(self, seconds: float) -> bool:
        """Kill it at that moment after its first request; tells whether it was still running."""
        time.sleep(max(0.0, self.start + seconds - time.monotonic()))
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()
        return self.process.returncode == -signal.SIGKILL


def test_killed_builds_go_on(slow_site: Site) -> None:
    site, output, moments = slow_site, slow_site.root / "out.tar", random.Random(20)
    whole_run = Run(site)
    whole_run.end()
    duration, wanted = time.monotonic() - whole_run.start, digest(output)
    interrupted = halfway = 0
    for number in range(KILLS):
        shutil.rmtree(site.root / "cache")
        output.unlink()
        interrupted += Run(site).kill_after(duration * (number + moments.random()) / KILLS)
        whole, before = finished(site), asked(site)
        site.run("build", "-o", output.name, "-q", "-j", "3")
        assert digest(output) == wanted
        again = asked(site) - before
        halfway += bool(whole and again)
        assert not whole & set(again), "a finished file was fetched again"
        assert not list(site.root.glob(".*.partial"))
    assert interrupted > KILLS // 2
    assert halfway > KILLS // 4
