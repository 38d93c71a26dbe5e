"""Real packages, made by rpmbuild."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SPEC = """
Name: {name}
Version: {version}
Release: 0
Summary: Stand-in for {name}
License: Apache-2.0
BuildArch: noarch
{requires}
%description
Stand-in.
%install
mkdir -p %{{buildroot}}/opt/{name}
head -c {size} /dev/zero | openssl enc -aes-128-ctr -nosalt -pass pass:{name} 2>/dev/null \
  > %{{buildroot}}/opt/{name}/payload
%files
/opt/{name}
"""


def build(directory: Path, name: str, version: str, requires: str = "", size: int = 100_000) -> Path:
    """Build ``name-version-0.noarch.rpm`` with an incompressible payload of ``size`` bytes; returns its path."""
    directory.mkdir(parents=True, exist_ok=True)
    spec = directory / f"{name}.spec"
    wants = f"Requires: {requires}" if requires else ""
    spec.write_text(SPEC.format(name=name, version=version, requires=wants, size=size))
    subprocess.run(
        ["rpmbuild", "-bb", "--quiet", "--define", f"_topdir {directory}/top", "--define", f"_rpmdir {directory}",
         "--define", "_rpmfilename %{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}.rpm", "--define", "_build_id_links none",
         spec],
        check=True, capture_output=True, env={**os.environ, "HOME": str(directory)},
    )
    spec.unlink()
    return directory / f"{name}-{version}-0.noarch.rpm"
