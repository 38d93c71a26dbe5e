"""The lab's OpenPGP keys, one for each vendor whose packages it stands in for; made once in a LAB_HOME."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .home import EPOCH, Built, run, step

VENDORS = {
    "kubernetes": "Google Cloud Packages RPM Signing Key",
    "kubernetes-repo": "Google Cloud Packages Automatic Signing Key",
    "docker": "Docker Release (CE rpm)",
    "centos": "CentOS-7 Key (CentOS 7 Official Signing Key)",
}
DEBIAN = "debian"


def keys() -> Built:
    """Return a directory with VENDOR.asc, the public keys, and gnupg/, the key ring that signs."""
    return step("keys", [VENDORS], lambda out: _make(VENDORS, out))


def debian_keys() -> Built:
    """Return the same for DEBIAN alone, so that no RPM is signed again because of it."""
    owner = {DEBIAN: "Debian Archive Automatic Signing Key (12/bookworm)"}
    return step("keys-debian", [owner], lambda out: _make(owner, out))


def gpg_words(ring: Path) -> list[str]:
    """Return the words of a gpg command that uses ring, asks nothing and works at the lab's fixed time."""
    # A key is valid from its second on: sign a day later than it was made.
    return [
        "gpg",
        "--homedir",
        str(ring),
        "--batch",
        "--no-tty",
        "--quiet",
        "--pinentry-mode",
        "loopback",
        "--faked-system-time",
        f"{int(EPOCH) + 86400}!",
    ]


def stop_agent(ring: Path) -> None:
    """End the gpg-agent that gpg left behind for ring."""
    run("gpgconf", "--homedir", ring, "--kill", "gpg-agent")


def user_id(vendor: str, vendors: Mapping[str, str] = VENDORS) -> str:
    """Return the key's user id, by which it is found in the ring; it says whose key it stands in for."""
    return f"Kubecarry lab, standing in for: {vendors[vendor]} <{vendor}@lab.invalid>"


def _make(vendors: Mapping[str, str], out: Path) -> None:
    ring = out / "gnupg"
    ring.mkdir(mode=0o700)
    try:
        for vendor in vendors:
            words = ["gpg", "--homedir", str(ring), "--batch", "--quiet", "--faked-system-time", f"{EPOCH}!"]
            run(*words, "--gen-key", given=_parameters(user_id(vendor, vendors)))
            armored = run(*words, "--armor", "--export", f"{vendor}@lab.invalid")
            (out / f"{vendor}.asc").write_text(armored)
    finally:
        stop_agent(ring)


def _parameters(owner: str) -> str:
    name, mail = owner.split(" <")
    return "\n".join(
        [
            "%no-protection",
            "Key-Type: RSA",
            "Key-Length: 2048",
            "Key-Usage: sign",
            f"Name-Real: {name}",
            f"Name-Email: {mail.rstrip('>')}",
            "Expire-Date: 0",
            "%commit",
            "",
        ]
    )
