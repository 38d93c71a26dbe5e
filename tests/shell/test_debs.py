"""Hosts of Debian's kind: what is asked of dpkg and apt-get, which are stubs unless a test says otherwise."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from .stream import Shell

ON = "HOST_FORMAT=deb HOST_OS=debian12 ROLE=node; "
needs_dpkg = pytest.mark.skipif(not shutil.which("dpkg"), reason="needs dpkg")


def host(shell: Shell, *lines: str) -> None:
    """Stub dpkg-query by `STATE ARCH NAME VERSION` lines, and the architecture."""
    shell.stub("dpkg", '[ "$1" != --print-architecture ] || echo amd64')
    shell.stub("dpkg-query", f"""case "$*" in
  *Architecture*) printf '%s\\n' {' '.join(f"'{line}'" for line in lines)} ;;
  *) printf '%s\\n' {' '.join(f"'{line}'" for line in lines)} | awk -v n="${{!#}}" '$3 == n {{ print $1, $4 }}' ;;
esac""")


def test_the_format_is_that_of_the_distribution(shell: Shell, tmp_path: Path) -> None:
    for text, told in (
        ('ID=debian\nVERSION_ID="12"\n', "debian12 deb"),
        ('ID=ubuntu\nID_LIKE=debian\nVERSION_ID="22.04"\n', "ubuntu22 deb"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.4"\n', "el9 rpm"),
    ):
        (tmp_path / "os").write_text(text)
        assert shell.out(f"OS_RELEASE={tmp_path}/os; detect_os; echo $HOST_OS $HOST_FORMAT") == f"{told}\n"


def test_only_what_is_missing_is_installed_and_nothing_is_downgraded(shell: Shell) -> None:
    host(shell, "installed amd64 socat 9.9", "installed amd64 kubelet 1.19.0-00", "config-files amd64 conntrack 1:1.4",
         "half-configured amd64 runc 1.1", "installed i386 libx 1", "installed all tool 2")  # fmt: skip
    wanted = ("socat=1.7", "kubelet=1.20.2-00", "conntrack=1:1.4", "runc=1.1", "libx=1", "tool=1")
    names = "".join(f"{name} {name.partition('=')[0]}\n" for name in wanted)
    (shell.state / "lists/packages-debian12-node").write_text("digest\n" + names)
    assert shell.out(ON + "missing_packages").split() == ["kubelet=1.20.2-00", "conntrack=1:1.4", "runc=1.1", "libx=1"]


def test_packages_of_other_architectures_are_passed_over(shell: Shell) -> None:
    host(shell)
    names = shell.state / "cache/lists/debian12/node.packages"
    names.parent.mkdir(parents=True)
    mine = ["p_1_amd64.deb", "p_1~rc1+b2_all.deb", f"k_1-00_amd64_{'0a' * 32}.deb"]
    names.write_text("".join(f"packages/debian12/{name}\n" for name in [*mine, "p_1_arm64.deb", "p_amd64_2_s390x.deb"]))
    assert shell.out(ON + "role_packages").split() == [f"packages/debian12/{name}" for name in mine]


@needs_dpkg
def test_names_are_those_that_apt_takes(shell: Shell, tmp_path: Path) -> None:
    control = tmp_path / "tree/DEBIAN/control"
    control.parent.mkdir(parents=True)
    control.write_text("Package: p\nVersion: 1:2~3-4\nArchitecture: all\nMaintainer: x <x@y>\nDescription: x\n")
    subprocess.run(["dpkg-deb", "-b", tmp_path / "tree", tmp_path / "any.deb"], check=True, capture_output=True)
    assert shell.out(ON + f"deb_names {tmp_path}/any.deb") == "p=1:2~3-4 p\n"


def test_the_source_is_local_and_signed_where_it_was_signed(shell: Shell) -> None:
    repo = shell.state / "cache/packages/debian12"
    (repo / "keys").mkdir(parents=True)
    (repo / "keys/up.gpg").write_bytes(b"\x99binary")
    (repo / "keys/we.asc").write_text("-----BEGIN PGP PUBLIC KEY BLOCK-----\n")
    assert shell.out(ON + 'mkdir -p "$STATE/apt"; apt_source') == f"deb [trusted=yes] file:{repo} ./\n"
    (repo / "InRelease").write_text("signed")
    apt = shell.state / "apt"
    told = shell.out(ON + 'mkdir -p "$STATE/apt"; apt_source')
    assert told == f"deb [signed-by={apt}/1.gpg,{apt}/2.asc] file:{repo} ./\n"
    assert (apt / "1.gpg").read_bytes() == b"\x99binary"


@pytest.mark.skipif(not shutil.which("apt-config"), reason="needs apt")
def test_apt_reads_nothing_of_the_hosts_own(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "apt.conf").write_text(shell.out(ON + "apt_conf"))
    env = {"APT_CONFIG": str(tmp_path / "apt.conf"), "PATH": "/usr/bin:/bin"}
    told = subprocess.run(["apt-config", "dump"], env=env, check=True, capture_output=True, text=True).stdout
    assert f'Dir::Etc::sourcelist "{shell.state}/apt/sources.list";' in told
    for name in ("main", "parts", "sourceparts", "preferences", "preferencesparts", "trusted", "trustedparts"):
        assert f'Dir::Etc::{name} "/dev/null";' in told
    assert "Post-Invoke" not in told
    assert 'APT::Get::Remove "false";' in told


def test_a_package_manager_in_trouble_is_a_fault_but_not_our_own(shell: Shell) -> None:
    shell.stub("dpkg", '[ "$1" != --audit ] || echo "half configured: x"')
    for tool in ("dpkg-deb", "dpkg-query", "apt-get"):
        shell.stub(tool, "")
    check = ON + "CHECKING=package-db; check_package_db; printf '%s\\n' ${FAULTS[@]+\"${FAULTS[@]}\"}"
    assert "dpkg has packages that are half installed" in shell.out(check)
    assert shell.out(f"record packages some; {check}").strip() == ""


def test_services_are_held_and_a_policy_of_the_administrator_comes_back(shell: Shell, tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    held = f"POLICY={policy}; {ON} hold_services; hold_services; sh {policy} || echo rc $?; release_services"
    assert shell.out(held) == "rc 101\n"
    assert not policy.exists()
    policy.write_text("#!/bin/sh\nexit 104\n")
    policy.chmod(0o755)
    (shell.state / "journal").unlink()
    assert shell.out(held) == "rc 101\n"
    assert policy.read_text() == "#!/bin/sh\nexit 104\n"
    assert shell.out(f"POLICY={policy}; {ON} release_services; undo_policy {policy} -; cat {policy}").endswith("104\n")


def test_an_interrupted_dpkg_is_finished_before_all_that_is_missing_is_installed(shell: Shell, tmp_path: Path) -> None:
    done = shell.run(ON + f"""POLICY={tmp_path}/policy
        dpkg() {{ case $* in --audit) echo half ;; *) echo "dpkg $*" >&3 ;; esac; }}
        missing_packages() {{ echo b=2; echo c=3; }}
        our_apt() {{ echo "apt $*" >&3; }}
        exec 3>&1; deb_install a=1""")
    assert done.stdout == "dpkg --force-confdef --force-confold --configure -a\napt -q install b=2 c=3\n"


def test_a_held_lock_is_waited_for(shell: Shell, tmp_path: Path) -> None:
    shell.stub("dpkg", f"""[ -e {tmp_path}/tried ] && exit 0; touch {tmp_path}/tried
        echo 'dpkg: error: dpkg frontend lock was locked by another process with pid 7' >&2; exit 2""")
    done = shell.run(ON + "dpkg_patiently --purge x && echo gone")
    assert done.stdout == "gone\n"
    assert "waiting for the package manager that holds the lock of dpkg" in done.stderr


def test_what_we_brought_is_purged_and_older_configuration_is_left(shell: Shell) -> None:
    host(shell, "installed amd64 new 1", "half-installed amd64 broken 2", "installed amd64 older 3",
         "not-installed amd64 gone 4")  # fmt: skip
    told = shell.out(ON + """dpkg_patiently() { echo "$*"; }; record leftover older
        deb_remove new=1 broken=2 older=3 gone=4 never=5""")
    assert told == "--purge --force-remove-reinstreq new broken\n--remove --force-remove-reinstreq older\n"


def test_a_package_manager_that_a_killed_run_left_is_waited_for(shell: Shell, tmp_path: Path) -> None:
    """With what started it and what it started; anything else that the run left is ended."""
    tool = tmp_path / "apt-get"
    tool.write_text(f"#!/bin/bash\nuntil [ -e {tmp_path}/told ]; do sleep 0.1; done\necho done >{tmp_path}/finished\n")
    tool.chmod(0o755)
    held = f"""DEPLOY_SOURCED=1; . {shell.directory}/deploy.sh; LOCK={shell.directory}/lock; take_lock
        timeout 60 {tool} & sleep 300 & echo $! >{tmp_path}/other; kill -9 $$"""
    subprocess.run(["bash", "-c", held], stdin=subprocess.DEVNULL, check=False)
    done = shell.run(f'say() {{ echo "$*" >&2; touch {tmp_path}/told; }}; take_lock; echo took', timeout=60)
    assert done.stdout == "took\n"
    assert "waiting for what an interrupted run left at work" in done.stderr
    assert (tmp_path / "finished").exists()
    stat = Path(f"/proc/{(tmp_path / 'other').read_text().strip()}/stat")
    assert not stat.exists() or stat.read_text().split()[2] == "Z"
