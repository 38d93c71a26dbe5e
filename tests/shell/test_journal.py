"""Every change is written down before it is made, and undone in reverse, whatever is missing."""

from __future__ import annotations

from pathlib import Path

from .stream import Shell


def tree(path: Path) -> dict[str, tuple[int, bytes | str | None]]:
    """Names, modes and contents below a directory."""
    found: dict[str, tuple[int, bytes | str | None]] = {}
    for item in sorted(path.rglob("*")):
        content = str(item.readlink()) if item.is_symlink() else item.read_bytes() if item.is_file() else None
        found[str(item.relative_to(path))] = (item.lstat().st_mode, content)
    return found


def test_files_made_and_replaced_come_back_as_they_were(shell: Shell, tmp_path: Path) -> None:
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "kept").write_text("old\n")
    (etc / "kept").chmod(0o640)
    (etc / "link").symlink_to("kept")
    before = tree(etc)
    shell.out(f"put_file 0600 {etc}/kept <<<new; put_file 0644 {etc}/a/b/c <<<1; put_file 0644 {etc}/link <<<2")
    assert (etc / "kept").read_text() == "new\n"
    assert (etc / "kept").stat().st_mode & 0o777 == 0o600
    assert (etc / "a/b/c").exists()
    assert shell.out("undo_all; echo $LEFT") == "0\n"
    assert tree(etc) == before


def test_the_original_is_kept_once_however_often_we_write(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("original")
    for text in ("one", "two", "three"):
        shell.out(f"echo {text} | put_file 0644 {file}")
    shell.out("undo_all")
    assert file.read_text() == "original"


def test_what_is_the_same_is_not_touched(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "f"
    assert shell.out(f"put_file 0644 {file} <<<x; echo $CHANGED; put_file 0644 {file} <<<x; echo $CHANGED") == "1\n0\n"
    assert len(shell.journal) == 1


def test_the_line_is_there_before_the_change(shell: Shell, tmp_path: Path) -> None:
    """The change fails; the journal names it all the same, and undoing it is no error."""
    failing = 'mv() { case $* in *kubecarry-new*) return 1 ;; esac; command mv "$@"; }'
    done = shell.run(f"{failing}; echo x | put_file 0644 {tmp_path}/f")
    assert done.returncode != 0
    assert shell.journal[0].startswith(f"file\t{tmp_path}/f\t-\t")
    shell.out("undo_all")
    assert not list(tmp_path.glob("f*"))


def test_a_directory_with_foreign_files_stays(shell: Shell, tmp_path: Path) -> None:
    shell.out(f"echo x | put_file 0644 {tmp_path}/d/ours")
    (tmp_path / "d/theirs").write_text("keep")
    shell.out("undo_all")
    assert tree(tmp_path / "d").keys() == {"theirs"}


def test_an_owned_tree_is_removed_but_for_what_was_there(shell: Shell, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    (old / "sub").mkdir(parents=True)
    (old / "sub/theirs").write_text("1")
    old.chmod(0o750)
    before = tree(tmp_path / "old")
    shell.out(f"own_tree {old}; own_tree {new}; own_tree {old}")
    (new / "x/y").mkdir(parents=True)
    (new / "x/y/z").write_text("2")
    (old / "sub/ours").write_text("3")
    (old / "a directory").mkdir()
    (old / "a directory/f").write_text("4")
    old.chmod(0o700)
    shell.out("undo_all")
    assert not new.exists()
    assert tree(old) == before
    assert old.stat().st_mode & 0o777 == 0o750


def test_undo_goes_backwards_and_passes_over_what_is_gone(shell: Shell, tmp_path: Path) -> None:
    """The order shows by a file in a directory of ours: the directory can only go after the file."""
    shell.out(
        f"echo 1 | put_file 0644 {tmp_path}/d/e/f; own_tree {tmp_path}/gone; "
        "record link kc-absent0; record route 10.255.0.0/24 kc-absent0"
    )
    (tmp_path / "d/e/f").unlink()
    assert shell.out("undo_all; echo $LEFT") == "0\n"
    assert not (tmp_path / "d").exists()


def test_one_failure_does_not_stop_the_others_and_is_kept_for_the_next_run(shell: Shell, tmp_path: Path) -> None:
    shell.out(f"echo 1 | put_file 0644 {tmp_path}/first; record bad one; echo 2 | put_file 0644 {tmp_path}/last")
    done = shell.run('undo_bad() { [ "$1" = two ]; }; undo_all; echo "left $LEFT"')
    assert "left 1" in done.stdout
    assert "could not undo: bad one" in done.stderr
    assert not (tmp_path / "first").exists()
    assert not (tmp_path / "last").exists()
    assert shell.journal == ["bad\tone"]
    shell.out("undo_bad() { true; }; undo_all")
    assert shell.journal == []


def test_an_interrupted_undo_goes_on_where_it_stopped(shell: Shell, tmp_path: Path) -> None:
    """The file's directory belongs to an earlier change: had the file's line stayed, the second run would miss it."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_text("theirs")
    shell.out(f"record vanish {tmp_path}/d; record slow x; echo ours | put_file 0644 {tmp_path}/d/f")
    vanish = 'undo_vanish() { rm -r "$1"; }'
    done = shell.run(f"{vanish}; undo_slow() {{ kill -9 $$; }}; undo_all")
    assert done.returncode == -9
    assert (tmp_path / "d/f").read_text() == "theirs"
    assert [line.split("\t")[0] for line in shell.journal] == ["vanish", "slow"]
    assert shell.out(f"{vanish}; undo_slow() {{ :; }}; undo_all; echo $LEFT") == "0\n"
    assert not (tmp_path / "d").exists()


def test_a_missing_original_is_said_and_the_file_left(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old")
    shell.out(f"echo new | put_file 0644 {tmp_path}/f")
    for file in (shell.state / "backup").iterdir():
        file.unlink()
    done = shell.run("undo_all; echo $LEFT")
    assert done.stdout == "1\n"
    assert "its original" in done.stderr
    assert (tmp_path / "f").read_text() == "new\n"


def test_the_same_change_is_recorded_once(shell: Shell) -> None:
    shell.out("record sysctl a 1; record sysctl a 1; record sysctl a 2")
    assert shell.journal == ["sysctl\ta\t1", "sysctl\ta\t2"]


def test_fstab_lines_of_swap_are_marked_and_come_back(shell: Shell, tmp_path: Path) -> None:
    fstab = tmp_path / "fstab"
    text = "UUID=1 / ext4 defaults 0 1\n/dev/sda2 none swap sw 0 0\n# /dev/sdb swap swap\nUUID=2\tswap\tswap\tsw 0 0\n"
    fstab.write_text(text)
    moved = f"declare -f swap_off | sed 's#/etc/fstab#{fstab}#g' >{tmp_path}/fn; . {tmp_path}/fn"
    shell.out(f"{moved}; swap_devices() {{ :; }}; swap_off; swap_off")
    assert fstab.read_text().count("#kubecarry# ") == 2
    fstab.write_text(fstab.read_text() + "added later\n")
    shell.out("undo_all")
    assert fstab.read_text() == text + "added later\n"


def test_the_hosts_block_is_marked_and_removed(shell: Shell, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n")
    body = f"declare -f name_host | sed 's#/etc/hosts#{hosts}#g' >{tmp_path}/fn; . {tmp_path}/fn"
    names = "NODE_NAME=kc-nowhere.invalid NODE_ADDRESS=10.1.1.1"
    shell.out(f'{body}; getent() {{ return 2; }}; timeout() {{ shift; "$@"; }}; {names}; name_host; name_host')
    block = "# kubecarry begin\n10.1.1.1 kc-nowhere.invalid\n# kubecarry end\n"
    assert hosts.read_text() == "127.0.0.1 localhost\n" + block
    shell.out("undo_all")
    assert hosts.read_text() == "127.0.0.1 localhost\n"


def test_secrets_never_reach_the_log(shell: Shell) -> None:
    line = f"join --token 123456.aaaaaaaaaaaaaaaa --certificate-key {'f' * 64}"
    shell.out(f"note 'token abcdef.0123456789abcdef'; logged echo '{line}'")
    text = shell.log.read_text()
    assert "0123456789abcdef" not in text
    assert "aaaaaaaaaaaaaaaa" not in text
    assert "f" * 64 not in text
    assert "******" in text
