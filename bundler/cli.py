"""The command line: the only place that prints and exits. Data go to stdout, everything else to stderr."""

from __future__ import annotations

import errno
import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
from click.shell_completion import get_completion_class

from bundler import __version__, data, extras, lint
from bundler import diff as comparing
from bundler import inspect as inspecting
from bundler import versions as listing
from bundler.build import Item, Order, build, plan, require_complete
from bundler.delta import read_base
from bundler.errors import BundlerError, HostError
from bundler.extras import Requests
from bundler.lock import write_locks
from bundler.options import (
    ANY_PATH,
    FILE,
    Fetching,
    choosing,
    created,
    fetching,
    own,
    places,
    requests,
    select,
    size,
)
from bundler.output import Shape
from bundler.progress import Progress, amount
from bundler.rebuild import rebuild
from bundler.reposign import keygen as repo_keygen
from bundler.reposign import open_key
from bundler.resolve import resolve
from bundler.selection import Selection
from bundler.sign import keygen, load_private
from bundler.verify import verify
from bundler.why import why

INTERRUPTED = 130
FULL = (errno.ENOSPC, errno.EDQUOT)


class Commands(click.Group):
    """Turns every error into a message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except BundlerError as reason:
            if ctx.params["debug"]:
                raise
            _complain(reason.message, reason.hint)
            ctx.exit(reason.exit_code)
        except KeyboardInterrupt:
            _complain("interrupted", "The same command goes on from here.")
            ctx.exit(INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except OSError as reason:
            if ctx.params["debug"] or reason.errno not in FULL:
                return self._unexpected(ctx, reason)
            _complain(f"{reason.filename or 'standard output'}: no space left", "Free some, or write elsewhere.")
            ctx.exit(HostError.exit_code)
        except Exception as reason:
            self._unexpected(ctx, reason)

    @staticmethod
    def _unexpected(ctx: click.Context, reason: Exception) -> None:
        if ctx.params["debug"]:
            raise reason
        _complain(
            f"unexpected {type(reason).__name__}: {' '.join(str(reason).split())}",
            f"This is a fault of bundler {__version__}: run `bundler --debug …` and report what it prints.",
        )
        ctx.exit(1)


def _complain(message: str, hint: str) -> None:
    color = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    head = click.style("error:", fg="red", bold=True) if color else "error:"
    click.echo(f"{head} {message}", err=True, color=color)
    if hint:
        click.echo(f"  {hint}", err=True)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="bundler")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def main(debug: bool) -> None:
    """Carry Kubernetes into closed networks: one checksummed tarball, one line per node."""


@main.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@places
def versions(as_json: bool, manifests: Path | None, lock_dir: Path | None) -> None:
    """List releases, how complete their locks are, and add-ons."""
    found = listing.versions(manifests or data.manifests_dir(), lock_dir or data.lock_dir())
    if as_json:
        _print_json(found)
    else:
        click.echo("\n".join(listing.lines(found)))


@main.command()
@choosing
@own
@click.option("--drop", multiple=True, metavar="NAME", help="Carry something of your own no longer.")
@fetching
@click.option("--upgrade", multiple=True, is_flag=False, flag_value="*", metavar="[PATTERN]",
              help="Choose anew what is locked: everything, or packages, images and URLs like PATTERN.")
@click.option("--allow-downgrade", is_flag=True, help="Let a package become older.")
def lock(upgrade: tuple[str, ...], allow_downgrade: bool, **options: Any) -> None:
    """Choose versions and digests that are not locked yet, write them to the locks, and print what changed."""
    target, asked, choice = _lock_target(options["lock_dir"]), requests(options), _split(options)
    wanted = select(**choice)
    before = wanted.extras
    with Fetching(**options).open() as workshop:
        if asked != Requests():
            own_things = extras.extend(before, asked, workshop.store, workshop.registry.client)
            wanted = select(**choice, extras=own_things)
        found = resolve(wanted.release, wanted.addons, wanted.os_names, wanted.arches, workshop.registry.client,
                        workshop.registry, wanted.locks, allow_downgrade=allow_downgrade, upgrade=upgrade)
    for warning in found.warnings:
        _say(f"warning: {warning}")
    write_locks(target, found.locks)
    extras.write_extras(target, {**extras.read_extras(target), wanted.release.release: wanted.extras})
    changes = [*found.changes, *extras.changes(before, wanted.extras)]
    for line in changes:
        click.echo(line)
    _say(f"{target}: {len(changes)} changes")


def _lock_target(lock_dir: Path | None) -> Path:
    """Return the directory to write locks to: never into an installed package."""
    found = lock_dir or data.lock_dir()
    return Path.cwd() if data.is_installed() and found == data.root() else found


@main.command("build")
@choosing
@own
@fetching
@click.option("-o", "--output", type=ANY_PATH, help="Default kubecarry-VERSION-OS-ARCH.tar.")
@click.option("--key", type=FILE, help="Private key (PEM) to sign with: see keygen.")
@click.option("--repo-key", metavar="FILE|ID", help="OpenPGP key (by gpg) to sign repositories with: keygen --repo.")
@click.option("--since", type=FILE, metavar="OLD", help="Write only what OLD lacks: a bundle, or `have` of one.")
@click.option("--split", callback=size, metavar="SIZE", help="Cut into parts: 4G (FAT32), 700M, ….")
@click.option("--run", is_flag=True, help="Write a file that checks and serves itself.")
@click.option("--dry-run", is_flag=True, help="Only say what would be fetched.")
def build_command(
    output: Path | None, key: Path | None, repo_key: str | None, since: Path | None, split: int, run: bool,
    dry_run: bool, **options: Any,
) -> None:
    """Write the bundle that the locks pin."""
    if run and (split or since):
        raise click.UsageError("--run stands alone: neither --split nor --since goes with it.")
    asked, selection = requests(options), select(**_split(options))
    extras.require(selection.extras, asked)
    require_complete(selection)
    with open_key(repo_key) if repo_key else nullcontext() as signer, Fetching(**options).open() as workshop:
        order = Order(
            selection=selection,
            installer=data.installer_files(),
            created=created(selection.release),
            key=load_private(key) if key else None,
            output=output or Path(_name(selection) + (".run" if run else ".delta.tar" if since else ".tar")),
            base=read_base(since) if since else None,
            shape=Shape(split, run),
            repo_signer=signer,
        )
        if dry_run:
            _print_plan(plan(selection, workshop))
            return
        built = build(order, workshop)
        doubtful = lint.warnings(selection, workshop.store)
    for warning in doubtful:
        _say(f"warning: {warning}")
    state = "" if built.changed else " is there already, unchanged"
    _say(f"{built.path}: {built.members} members, {amount(built.size)}{state}")
    _say(f"sha256 of its SHA256SUMS: {built.sums_sha256}")
    for path in order.shape.names(built.path, built.size):
        click.echo(path)


def _name(selection: Selection) -> str:
    """File name of a bundle: two releases of one Kubernetes version differ by what follows the release's number."""
    variant = selection.release.release.partition("-")[2]
    parts = ["kubecarry", selection.release.kubernetes, variant, *selection.os_names, *selection.arches]
    return "-".join(filter(None, parts))


def _print_plan(items: list[Item]) -> None:
    for item in items:
        size = "unknown" if item.size is None else amount(item.size)
        click.echo(f"{'cached' if item.cached else 'fetch':<6} {size:>9}  {item.name}")
    wanted = [item for item in items if not item.cached]
    unknown = " and files of unknown size" if any(item.size is None for item in wanted) else ""
    _say(f"{len(wanted)} of {len(items)} files to fetch, {amount(sum(item.size or 0 for item in wanted))}{unknown}")


@main.command("verify")
@click.argument("bundle", type=FILE)
@click.option("--key", type=FILE, help="Public key (PEM) that must have signed it.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--rebuild", "again", is_flag=True, help="Build it again from the locks, and compare bit for bit.")
@places
@fetching
def verify_command(
    bundle: Path, key: Path | None, as_json: bool, again: bool, manifests: Path | None, lock_dir: Path | None,
    **options: Any,
) -> None:
    """Check every byte of a bundle, or of its parts by the first of them."""
    with Progress(quiet=options["quiet"]) as progress:
        found = verify(bundle, key, progress)
    if again:
        with Fetching(**options).open() as workshop:
            rebuild(bundle, manifests, lock_dir, workshop)
    if as_json:
        _print_json({"path": str(bundle), **vars(found), "rebuilt": again})
        return
    click.echo(f"{bundle}: OK, {found.members} members, {amount(found.size)}")
    if again:
        click.echo("the same as the locks give, bit for bit" + (", the signature apart" if found.signed else ""))
    if found.base:
        _say(f"a delta: it needs the bundle whose SHA256SUMS has sha256 {found.base}")
    if found.trusted:
        click.echo(f"signed by {key}")
    else:
        _say("signed, but the signature was not checked: give --key" if found.signed else "not signed")


@main.command()
@click.argument("bundle", type=FILE)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), default="-", help="Default stdout.")
def have(bundle: Path, output: Path) -> None:
    """Write what a bundle has: a small file that `build --since` takes in its place."""
    with click.open_file(str(output), "wb") as file:
        file.write(read_base(bundle).document())


@main.command("diff")
@click.argument("old", type=FILE)
@click.argument("new", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def diff_command(old: Path, new: Path, as_json: bool) -> None:
    """Show what NEW carries that OLD does not, and the other way round."""
    found = comparing.diff(old, new)
    if as_json:
        _print_json(comparing.document(found))
    else:
        click.echo("\n".join(comparing.lines(found)))


@main.command("inspect")
@click.argument("bundle", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def inspect_command(bundle: Path, as_json: bool) -> None:
    """Show what is in a bundle."""
    facts = inspecting.inspect(bundle)
    if as_json:
        _print_json(facts)
    else:
        click.echo("\n".join(inspecting.lines(facts)))


@main.command("why")
@click.argument("name")
@click.argument("bundle", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def why_command(name: str, bundle: Path, as_json: bool) -> None:
    """Tell what wants a package, image or file to be in a bundle."""
    answers = why(bundle, name)
    if as_json:
        _print_json([vars(answer) for answer in answers])
        return
    for answer in answers:
        click.echo("\n".join([f"{answer.kind} {answer.name}", *(f"  {line}" for line in answer.because)]))


@main.command("keygen")
@click.argument("directory", type=ANY_PATH, required=False)
@click.option("--out", type=ANY_PATH, help="The same as DIRECTORY.")
@click.option("--repo", is_flag=True, help="An OpenPGP key for `build --repo-key` instead, made by gpg.")
def keygen_command(directory: Path | None, out: Path | None, repo: bool) -> None:
    """Make a pair of keys in DIRECTORY to sign bundles with, or the repositories in them."""
    if (directory is None) == (out is None):
        raise click.UsageError("Give one directory: bundler keygen DIRECTORY")
    private, public = (repo_keygen if repo else keygen)(directory or out or Path())
    _say(f"Keep {private} secret; carry {public} to the other side by another way than the bundle.")
    click.echo(f"{private}\n{public}")


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a completion script: eval "$(bundler completion bash)"."""
    found = get_completion_class(shell)
    if found:
        click.echo(found(main, {}, "bundler", "_BUNDLER_COMPLETE").source())


def _split(options: dict[str, Any]) -> dict[str, Any]:
    """Take the arguments of ``select`` out of a command's options."""
    names = ("version", "os_names", "arches", "addons", "manifests", "lock_dir")
    return {name: options.pop(name) for name in names if name in options}


def _print_json(document: object) -> None:
    click.echo(json.dumps(document, indent=1, sort_keys=True))


def _say(text: str) -> None:
    click.echo(text, err=True)
