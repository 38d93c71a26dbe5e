"""Kubernetes' source: Debian's own source package, completed so that a current Go builds it."""

import shutil
from pathlib import Path

from .home import Built, LabError, debian_versions, home, run, step

TREE = Path("gopath/src/k8s.io/kubernetes")  # GOPATH mode: the tree builds only at its import path
REFLECT2 = Path("/usr/share/gocode/src/github.com/modern-go/reflect2")


def source() -> Built:
    """Return the unpacked source of Kubernetes 1.20.2, a GOPATH under gopath/, ready for `go build`."""
    archive = step("ksource-archive", ["kubernetes 1.20.2"], _download)
    tools = debian_versions("golang-go", "golang-github-modern-go-reflect2-dev")
    return step("ksource", [archive, tools, Path(__file__)], lambda out: _unpack(archive.path, out))


def go_env(gopath: Path) -> dict[str, str]:
    """Return the environment of a static GOPATH build whose compiled packages stay in the lab's cache."""
    return {
        "GO111MODULE": "off",
        "GOPATH": str(gopath),
        "CGO_ENABLED": "0",
        "GOFLAGS": "-trimpath",
        "GOCACHE": str(home() / "gocache"),
    }


def _download(out: Path) -> None:
    """apt-get source with the machine's own mirrors, but with lists and configuration of the lab's own."""
    entries = run(
        "apt-get", "indextargets", "--format", "$(LABEL)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)", "Created-By: Packages"
    ).splitlines()
    fields = sorted({tuple(e.split("|")) for e in entries if e.startswith("Debian|")})
    if not fields:
        raise LabError("apt knows no Debian mirror yet: run `apt-get update`, then this again")
    apt = home() / "apt"
    for directory in ("lists/partial", "cache", "empty"):
        (apt / directory).mkdir(parents=True, exist_ok=True)
    (apt / "sources.list").write_text("".join(f"deb-src {uri} {suite} {part}\n" for _, uri, suite, part in fields))
    options = [
        f"Dir::Etc::sourcelist={apt}/sources.list",
        f"Dir::Etc::sourceparts={apt}/empty",
        f"Dir::State::lists={apt}/lists",
        f"Dir::Cache={apt}/cache",
        "APT::Sandbox::User=root",
    ]
    words = ["apt-get", "-qq", *(w for o in options for w in ("-o", o))]
    run(*words, "update")
    run(*words, "source", "--download-only", "kubernetes", cwd=out)


def _unpack(archive: Path, out: Path) -> None:
    tree = out / TREE
    tree.mkdir(parents=True)
    original = next(archive.glob("kubernetes_*.orig.tar.*"))
    run("tar", "-xf", original, "-C", tree, "--strip-components=1", "--no-same-owner")
    _replace_reflect2(tree)
    _generate_openapi(out)


def _replace_reflect2(tree: Path) -> None:
    """The vendored modern-go/reflect2 1.0.1 panics with Go >= 1.18 at the first map it decodes; Debian's does not."""
    vendored = tree / "vendor/github.com/modern-go/reflect2"
    shutil.rmtree(vendored)
    shutil.copytree(REFLECT2, vendored, ignore=shutil.ignore_patterns("*_test.go"))


def _generate_openapi(out: Path) -> None:
    """kube-apiserver needs pkg/generated/openapi, which upstream generates and does not ship."""
    tree, tool = out / TREE, out / "openapi-gen"
    env = {**go_env(out / "gopath"), "GOFLAGS": ""}  # the tool reads the standard library: it must know GOROOT
    run("go", "build", "-o", tool, "./vendor/k8s.io/kube-openapi/cmd/openapi-gen", cwd=tree, env=env)
    run(
        tool,
        "--logtostderr",
        "-i",
        ",".join(_tagged(tree)),
        "-p",
        "k8s.io/kubernetes/pkg/generated/openapi",
        "-O",
        "zz_generated.openapi",
        "-h",
        "hack/boilerplate/boilerplate.generatego.txt",
        "-r",
        out / "violations.txt",
        cwd=tree,
        env=env,
    )


def _tagged(tree: Path) -> list[str]:
    """Return the import paths of the packages that ask for OpenAPI definitions."""
    left_out = {"code-generator", "sample-apiserver", "kubernetes"}
    staged = [d for d in (tree / "vendor/k8s.io").iterdir() if d.name not in left_out]
    found = set()
    for top in [tree / "pkg", tree / "cmd", tree / "plugin", *(d.resolve() for d in staged)]:
        for file in top.rglob("*.go"):
            if not file.name.endswith("_test.go") and b"+k8s:openapi-gen=" in file.read_bytes():
                found.add(file.parent)
    names = []
    for directory in found:
        path = directory.relative_to(tree.resolve()).as_posix().replace("staging/src/k8s.io/", "vendor/k8s.io/")
        names.append(f"k8s.io/kubernetes/{path}")
    return sorted(names)
