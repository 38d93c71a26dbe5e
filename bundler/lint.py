"""What a reviewer would ask about somebody else's manifest or chart: passwords and mail servers, floating tags."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from bundler.charts import Chart
from bundler.discover import images_in
from bundler.fetch.registry import Reference
from bundler.selection import Selection
from bundler.store import Store

# A line of YAML, of an ini file in a ConfigMap, or of JSON: the key, and a value that is written out.
SETTING = re.compile(r"""^[\s\-"']*([A-Za-z0-9_.-]+)["']?\s*[:=]\s*["']?([^"'\s,][^"',]*)""")
SENSITIVE = re.compile(
    r"(?i)(^|[_.-])(smtp([_.-]\w+)*|slack[_.-]api[_.-]url|auth[_.-]password|password|passwd|secret[_.-]?(access[_.-])?key"
    r"|api[_.-]?key|api[_.-]?token|access[_.-]?token|webhook[_.-]url)$"
)
# Filled in elsewhere, switched, or a name by which something else is found.
HARMLESS = re.compile(
    r"(?i)[$<{@%*|>&].*|(true|false|null|none|yes|no|~|\[\]|[0-9]{1,5}|x+|/\S*|example\S*|changeme\S*)\s*"
)
TOKENS = {
    "a Slack address": re.compile(r"hooks\.slack\.com/services/\w"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "an AWS key": re.compile(r"\bAKIA[0-9A-Z]{16}\b"),
    "a password in a URL": re.compile(r"\b[a-z][a-z0-9+]*://[^\s/:@'\"]+:[^\s/@${<'\"]+@"),
}


def warnings(selection: Selection, store: Store) -> list[str]:
    """Return a line for each doubtful thing in the manifests and charts of a bundle, all of which are in ``store``."""
    found: list[str] = []
    for path, file in sorted(selection.files().items()):
        if path.startswith("manifests/"):
            found += doubts(store.read(file.sha256).decode("utf-8", "replace"), path)
        elif path.startswith("charts/"):
            found += chart_doubts(Chart.read(store.read(file.sha256), path), path)
    for item in selection.extras.items:
        if item.kind == "chart":
            found += _floating([Reference.parse(image) for image in item.images], item.path)
    return found


def doubts(text: str, name: str) -> list[str]:
    """Return what is doubtful in one manifest, called ``name``; values are never shown. ManifestError if no YAML."""
    return _carried(text, name) + _floating([item.image for item in images_in(text, name)], name)


def chart_doubts(chart: Chart, name: str) -> list[str]:
    """Return what a chart's texts, and those of its sub-charts, carry: its values above all."""
    found: list[str] = []
    for path, content in sorted(chart.files.items()):
        if not path.startswith("charts/") and path.endswith((".yaml", ".yml", ".tpl", ".txt", ".json")):
            found += _carried(content.decode("utf-8", "replace"), f"{name}: {path}")
    for child in chart.children():
        found += chart_doubts(child, f"{name}: charts/{child.name}")
    return found


def _carried(text: str, name: str) -> list[str]:
    found, variable = [], ""
    for number, line in enumerate(text.splitlines(), 1):
        setting = SETTING.match(line)
        if setting and setting[1] == "name":
            variable = setting[2].strip()
        for thing in _things(line, variable):
            found.append(f"{name}:{number}: carries {thing}; check that it is meant to travel")
    return found


def _floating(images: Iterable[Reference], name: str) -> list[str]:
    floating = sorted({str(image) for image in images if image.tag == "latest"})
    return [f"{name}: {image} names no version; upstream may change it at any time" for image in floating]


def _things(line: str, variable: str) -> Iterator[str]:
    """What a line carries; ``variable`` is the name that the last line with one gave, of which `value:` may be."""
    if line.lstrip().startswith(("#", ";", "//")):
        return
    yield from (thing for thing, pattern in TOKENS.items() if pattern.search(line))
    setting = SETTING.match(line)
    key = variable if setting and setting[1] == "value" else setting[1] if setting else ""
    if setting and SENSITIVE.search(key) and not HARMLESS.fullmatch(setting[2].strip()):
        yield f"a value for {key}"
