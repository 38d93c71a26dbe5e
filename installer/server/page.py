"""The page at /: what is inside, what to type on the nodes, and how far each node is. All that varies is escaped."""

import base64
import hashlib
import time
from html import escape
from typing import Any, Dict, List, Optional, Tuple

from ..nodescript import NodeScript
from ..progress import human
from .desk import STEPS
from .look import COPY_JS, CSS, JS

_SILENT_SECONDS = 120


def _hash(text: str) -> str:
    return "'sha256-{}'".format(base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii"))


FIELDS = [
    ("Content-Type", "text/html; charset=utf-8"), ("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Content-Security-Policy", "default-src 'none'; style-src {}; script-src {}; connect-src 'self'; base-uri 'none'; "
                                "form-action 'none'; frame-ancestors 'none'".format(_hash(CSS), _hash(JS))),
]
_AGAIN = '<noscript><meta http-equiv="refresh" content="5"></noscript>'
_LIVE = ', <a href="/api/nodes">/api/nodes</a>; for Prometheus: <a href="/metrics">/metrics</a>'
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>Kubecarry {release}</title>{again}
<style>{css}</style></head><body>
<header><h1>Kubecarry {release}</h1><p>Kubernetes {kubernetes} for {arches}, built {created}, {signed}</p></header>
<main>
{nodes}
<section><h2>Install a node</h2>{lines}</section>
<section><h2>Inside</h2>{inside}</section>
</main>
<footer>The same as JSON: <a href="/api/bundle">/api/bundle</a>{live}.
SHA256SUMS has the digest <code class="digest">{sums}</code>.</footer>
<script>{js}</script></body></html>
"""


class Page:
    """Renders it; `facts` as `facts.facts` gives them."""

    def __init__(self, facts: Dict[str, Any], script: NodeScript) -> None:
        self._facts = facts
        self._script = script
        self._inside = _inside(facts)  # never changes

    def render(self, server: str, nodes: Optional[List[Dict[str, Any]]]) -> bytes:
        """The page for who reached the server as `server`, with `nodes` as `Desk.nodes` gives them.

        None for a page that lies in a tree and knows of no node.
        """
        facts = self._facts
        live = nodes is not None
        section = '<section><h2>Nodes</h2><div id="live">{}</div></section>'.format(_nodes(nodes or []))
        varying = {"js": JS, "again": _AGAIN, "live": _LIVE, "nodes": section} if live else {
            "js": COPY_JS, "again": "", "live": "", "nodes": ""}
        return _PAGE.format(
            css=CSS, release=escape(facts["release"]), kubernetes=escape(facts["kubernetes"]),
            arches=escape(", ".join(facts["arches"])), sums=facts["sums"],
            created=time.strftime("%Y-%m-%d", time.gmtime(facts["created"])),
            signed="signed" if facts["signed"] else "not signed", lines=self._lines(server),
            inside=self._inside, **varying).encode("utf-8")

    def _lines(self, server: str) -> str:
        parts = ["<p>As root, on a bare host that can reach this server.</p>"]
        for title, arguments in (("The first master", "master"),
                                 ("Every node that joins (the master prints TOKEN and MASTER)",
                                  "join --token TOKEN MASTER:6443")):
            short, checked = self._script.commands(server, arguments)
            parts.append("<h3>{}</h3>{}<details><summary>Safe against a changed script on the way</summary>{}</details>"
                         .format(escape(title), _line(short), _line(checked)))
        return "".join(parts)


def _line(text: str) -> str:
    return '<div class="line"><pre>{}</pre></div>'.format(escape(text))


def _nodes(nodes: List[Dict[str, Any]]) -> str:
    if not nodes:
        return '<p class="dim" id="stale">No node has reported yet. Each one appears here as soon as it begins.</p>'
    states = [_state(one)[0] for one in nodes]
    counts = ", ".join("{} {}".format(states.count(state), word) for state, word in (
        ("started", "installing"), ("done", "ready"), ("failed", "failed"), ("silent", "silent")) if state in states)
    rate = sum(one["rate"] for one in {one["address"]: one for one in nodes}.values())
    rows = "".join(_row(one) for one in nodes)
    return ('<p id="stale">{}. They pull {}/s in all.</p><div class="scroll"><table><thead><tr><th>Node</th><th>Address'
            '</th><th>Role</th><th>State</th><th>Step</th><th class="n">Pulls</th><th class="n">Pulled</th>'
            '<th class="n">Heard</th></tr></thead><tbody>{}</tbody></table></div>').format(counts, human(rate), rows)


def _row(one: Dict[str, Any]) -> str:
    state, word = _state(one)
    steps = STEPS[one["role"]]
    at = len(steps) if state == "done" else steps.index(one["step"]) if one["step"] in steps else 0
    cells = ('<tr><td><b>{}</b></td><td>{}</td><td>{}</td><td><span class="badge {}">{}</span></td>'
             '<td><progress class="{}" max="{}" value="{}"></progress> {}</td><td class="n">{}</td>'
             '<td class="n">{}</td><td class="n">{} ago</td></tr>').format(
                 escape(one["node"]), escape(one["address"]), one["role"], state, word,
                 "full" if state == "done" else "", len(steps), at, escape(one["step"]) if state != "done" else "",
                 human(one["rate"]) + "/s" if one["rate"] else "–", human(one["sent"]), _span(one["age"]))
    if state == "failed":
        cells += '<tr class="why"><td colspan="8"><p>{}<br><b>{}</b></p></td></tr>'.format(
            escape(one["message"]), escape(one["remedy"]))
    return cells


def _state(one: Dict[str, Any]) -> Tuple[str, str]:
    """CSS class and word; a node that pulls is not silent, however long its step takes."""
    if one["state"] == "started" and one["age"] > _SILENT_SECONDS and not one["rate"]:
        return "silent", "silent"
    return one["state"], {"started": "installing", "done": "ready", "failed": "failed"}[one["state"]]


def _span(seconds: int) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return "{} {}".format(seconds // size, unit)
    return "{} s".format(seconds)


def _inside(facts: Dict[str, Any]) -> str:
    counts = [("Size", human(facts["size"])), ("Files", facts["files"]), ("Images", len(facts["images"])),
              ("Packages", sum(host["packages"] for host in facts["hosts"])),
              ("Add-ons", len(facts["addons"])), ("Charts", len(facts["charts"]))]
    parts = ['<dl class="facts">{}</dl>'.format("".join(
        "<div><dt>{}</dt><dd>{}</dd></div>".format(name, value) for name, value in counts if value))]
    parts.append(_files(facts))
    if facts["hosts"]:
        parts += ["<h3>Packages</h3>", _table(["Host", "Roles", "Packages", "Size", "For its package manager"],
                                              [_host(host) for host in facts["hosts"]])]
    if facts["images"]:
        parts += ["<h3>Images</h3>", _table(["Image", "Roles", "Platforms", "Size"],
                                            [_image(image) for image in facts["images"]])]
    if facts["addons"]:
        parts += ["<h3>Add-ons</h3>", _table(["Name", "Version", "Kind"], [
            [escape(addon[key]) for key in ("name", "version", "kind")] for addon in facts["addons"]])]
    return "".join(parts)


def _files(facts: Dict[str, Any]) -> str:
    names = ["bundle.json", "SHA256SUMS"] + (["SHA256SUMS.sig"] if facts["signed"] else [])
    links = ['<a href="/{0}">{0}</a>'.format(name) for name in names]
    if facts["sbom"]:
        links.append('<a href="/sbom.cdx.json">software bill of materials (CycloneDX)</a>')
    proof = ""
    if facts["closure"]:
        proof = " Proven complete: {} images, and the packages of {} roles ({}).".format(
            facts["closure"]["images"], len(facts["closure"]["roles"]), '<a href="/closure.json">closure.json</a>')
    links += ['<a href="/{0}">{0}</a>'.format(escape(path)) for path in facts["charts"]]
    return "<p>{}.{}</p>".format(", ".join(links), proof)


def _host(host: Dict[str, Any]) -> List[str]:
    roles = ", ".join("{} ({})".format(escape(role), count) for role, count in sorted(host["roles"].items()))
    suffix = "sources" if host["format"] == "deb" else "repo"
    path = "/repo/{}.{}".format(escape(host["name"]), suffix)
    return ["<b>{}</b>".format(escape(host["name"])), roles, str(host["packages"]), human(host["size"]),
            '<a href="{0}">{0}</a>'.format(path)]


def _image(image: Dict[str, Any]) -> List[str]:
    return ['<b>{}</b><br><code class="digest">{}</code>'.format(escape(image["ref"]), escape(image["digest"])),
            escape(", ".join(image["roles"])), escape(", ".join(image["platforms"])), human(image["size"])]


def _table(heads: List[str], rows: List[List[str]]) -> str:
    """Cells are HTML already; sizes and counts stand to the right."""
    def cells(tag: str, row: List[str]) -> str:
        return "".join("<{0}{1}>{2}</{0}>".format(tag, ' class="n"' if head in ("Size", "Packages") else "", cell)
                       for head, cell in zip(heads, row))

    body = "".join("<tr>{}</tr>".format(cells("td", row)) for row in rows)
    return '<div class="scroll"><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>'.format(
        cells("th", heads), body)
