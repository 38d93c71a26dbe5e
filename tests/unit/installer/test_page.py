"""Reports in, page, API and metrics out: by any worker, bounded, and never believed."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from installer.bundle import open_bundle
from installer.nodescript import NodeScript
from installer.server import board, desk
from installer.server.accesslog import AccessLog
from installer.server.app import App
from installer.server.board import Board
from installer.server.desk import STEPS, Desk
from installer.server.reply import Reply, text
from installer.server.request import parse
from tests.bundles import add_image, make_bundle

TOKEN = "0123456789abcdef" * 2
EVIL = '<script>alert(1)</script>"\'&'


def report(**values: object) -> bytes:
    given = {"token": TOKEN, "node": "n1", "role": "node", "step": "images", "state": "started", "run": 1, "at": 1}
    return "\n".join(f"{key}={value}" for key, value in {**given, **values}.items()).encode()


@pytest.fixture
def app(tmp_path: Path) -> App:
    members = {"lists/el7/node.packages": b"packages/el7/a.rpm\n", "packages/el7/a.rpm": b"rpm" * 1000,
               "sbom.cdx.json": b"{}", "charts/shop-1.0.0.tgz": b"chart"}  # fmt: skip
    role = {"packages": 1, "spare": [], "assumed": []}
    proof = {"roles": {"el7": {"node": role}}, "images": [{"ref": "x", "by": []}]}
    members["closure.json"] = json.dumps({"schema": 1, "wanted": {}, "proven": proof}).encode()
    image = add_image(members, "quay.io/a/<b>:1", [b"layer" * 100])
    hosts = {"el7": {"format": "rpm", "path": "packages/el7", "keys": [], "roles": {"node": "lists/el7/node.packages"}}}
    bundle = open_bundle(str(make_bundle(tmp_path / "b.tar", members, [image], hosts=hosts, release=f"1.20{EVIL}")))
    return App(bundle, NodeScript(bundle), print, "", Desk(Board(2), 0, TOKEN))


def ask(app: App, target: str, body: bytes = b"", method: str = "GET", peer: str = "10.0.0.9") -> Reply:
    request = parse(f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}".encode())
    assert app.body_size(request) in (0, len(body))
    request.body, request.has_body, request.peer = body, False, peer
    return app.answer(request, lambda: "http://10.0.0.1:8000")


def html(app: App) -> str:
    return b"".join(ask(app, "/").body).decode()  # type: ignore[arg-type]


class Outline(HTMLParser):
    """Tags that are open, so that the page is known to be well nested; and every URL in it."""

    def __init__(self, text_: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.links: list[str] = []
        self.feed(text_)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        assert not [name for name, _ in attrs if name.startswith("on") or name == "style"]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_by_itself_and_is_well_formed(app: App) -> None:
    page = html(app)
    outline = Outline(page)
    assert outline.open == []
    assert {"table", "progress", "script"} - set(outline.seen) == {"progress"}  # no node yet
    assert outline.links and all(link.startswith("/") for link in outline.links)
    for link in outline.links:
        assert ask(app, link).status == 200, link
    assert "curl -fsSL http://10.0.0.1:8000/deploy.sh | bash -s master" in page
    assert "Proven complete" in page and "quay.io/a/&lt;b&gt;:1" in page


def test_the_policy_allows_exactly_the_page_s_own_code(app: App) -> None:
    reply = ask(app, "/")
    policy = re.search(r"Content-Security-Policy: (.*)\r\n", reply.head.decode())
    assert policy
    for tag in ("style", "script"):
        (code,) = re.findall(rf"(?s)<{tag}>(.*?)</{tag}>", html(app))
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy.group(1)
    assert "unsafe" not in policy.group(1)


def test_what_nodes_say_is_escaped(app: App) -> None:
    assert ask(app, "/report", report(state="failed", message=EVIL, remedy=EVIL), "POST").status == 204
    page = html(app)
    assert EVIL not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;&amp;" in page
    assert page.count("<script>") == 1
    assert Outline(page).open == []


def test_a_report_shows_on_every_worker(app: App) -> None:
    both = Board(2)
    first, second = Desk(both, 0, TOKEN), Desk(both, 1, TOKEN)
    assert first.take(report(node="n1", at=5), "10.0.0.1") == (204, "")
    assert second.take(report(node="n1", at=9, step="ready"), "10.0.0.1") == (204, "")
    assert first.take(report(node="n1", at=7, step="kubeadm"), "10.0.0.1") == (204, "")  # overtaken on its way
    assert second.take(report(node="m", role="master"), "10.0.0.2") == (204, "")
    for one in (first, second, Desk(both, 0, TOKEN)):  # the last: a worker that took a dead one's place
        assert [(node["node"], node["step"]) for node in one.nodes()] == [("m", "images"), ("n1", "ready")]
    again = Desk(both, 1, TOKEN)
    assert again.take(report(node="n1", run=2, at=1, state="done"), "10.0.0.1") == (204, "")
    assert [node["state"] for node in first.nodes()] == ["started", "done"]


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({"token": "0" * 32}, 403),
        ({"token": ""}, 403),
        ({"token": "é"}, 403),
        ({"node": "../../etc"}, 400),
        ({"node": "n" * 300}, 400),
        ({"node": ""}, 400),
        ({"role": "evil"}, 400),
        ({"step": "<b>"}, 400),
        ({"state": "x"}, 400),
        ({"run": "-1"}, 400),
        ({"at": "9" * 30}, 400),
        ({"step": "<b>", "state": "failed", "message": "x\x00\x1b[31m\u202e" + "\U0001f600" * 900}, 204),
    ],
)
def test_reports_are_checked(app: App, values: dict[str, object], status: int) -> None:
    assert ask(app, "/report", report(**values), "POST").status == status
    nodes = app.desk.nodes()
    assert len(nodes) == (status == 204)
    for node in nodes:
        assert (len(node["message"]), node["step"]) == (300, "")
        assert node["message"].startswith("x [31m ")


def test_only_small_posts_to_report_are_read(app: App) -> None:
    for path, length in (("/report", 4097), ("/", 10), ("/v2/", 10), ("/report", "x"), ("/report", 0)):
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {0 if length == 'x' else length}".encode()
        assert app.body_size(parse(head)) == 0
    reply = app.answer(parse(b"POST /report HTTP/1.1\r\nHost: x\r\nContent-Length: 9999"), lambda: "")
    assert (reply.status, reply.close) == (413, True)
    assert ask(app, "/report").status == 404
    assert ask(app, "/report", b"x", "PUT").status == 405


def test_reports_are_limited_in_number_and_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "NODES", 3)
    monkeypatch.setattr(desk, "NODES", 3)
    one = Desk(Board(1), 0, TOKEN)
    assert [one.take(report(node=f"n{n}"), "10.0.0.1")[0] for n in range(5)] == [204, 204, 204, 429, 429]
    monkeypatch.setattr("installer.server.desk._OLD_SECONDS", -1)
    assert one.take(report(node="new"), "10.0.0.1")[0] == 204
    assert sorted(node["node"] for node in one.nodes()) == ["n1", "n2", "new"]
    assert 429 in [one.take(report(), "10.0.0.1")[0] for _ in range(300)]


def test_traffic_is_counted_over_all_workers(app: App) -> None:
    both = Board(2)
    first, second = Desk(both, 0, TOKEN), Desk(both, 1, TOKEN)
    first.take(report(), "10.0.0.1")
    first.tick([0, 0, 7, 0, 1, 0], 3, {"10.0.0.1": 1 << 20})
    second.tick([0, 0, 5, 0, 0, 0], 1, {"10.0.0.1": 1 << 20})
    (node,) = second.nodes()
    assert (node["sent"], node["rate"]) == (2 << 20, 2 << 20)
    first.tick([0, 0, 8, 0, 1, 0], 2, {})
    assert (first.nodes()[0]["sent"], first.nodes()[0]["rate"]) == (2 << 20, (1 << 20) + (1 << 19))
    assert first.totals()["replies"] == [0, 0, 13, 0, 1, 0]
    assert first.totals()["connections"] == 3
    restarted = Desk(both, 0, TOKEN)
    restarted.tick([0, 0, 1, 0, 0, 0], 0, {})
    assert restarted.totals()["replies"] == [0, 0, 14, 0, 1, 0]  # counters never go back


def test_api_and_metrics(app: App) -> None:
    ask(app, "/report", report(), "POST")
    facts = json.loads(ask(app, "/api/bundle").body[0])  # type: ignore[arg-type]
    assert facts["images"][0]["size"] > 500
    assert facts["hosts"][0]["packages"] == 1
    assert facts["closure"]["images"] == 1
    (node,) = json.loads(ask(app, "/api/nodes").body[0])["nodes"]  # type: ignore[arg-type]
    assert (node["node"], node["address"], node["step"]) == ("n1", "10.0.0.9", "images")
    metrics = bytes(ask(app, "/metrics").body[0]).decode()  # type: ignore[arg-type]
    assert 'kubecarry_nodes{state="started"} 1\n' in metrics
    assert re.search(r'(?m)^kubecarry_bundle_info\{release="1.20<script>.*\\"', metrics)
    for line in metrics.splitlines():
        assert line.startswith("# ") or re.fullmatch(r"[a-z_]+(\{.*\})? [0-9]+", line), line


def test_steps_are_those_of_deploy() -> None:
    """Every run that prepares a host for a role reports steps of that role, in their order."""
    main = (Path(__file__).parents[3] / "installer/node/99-main.sh").read_text()
    bodies = dict(re.findall(r"(?ms)^(\w+)\(\) \{(.*?)^\}", main))
    told: dict[str, set[str]] = {role: set() for role in STEPS}
    for name in bodies:
        for role in re.findall(r"(?m)^  prepare (\w+)", bodies[name]):
            text = bodies["prepare"] + bodies[name]
            text = re.sub(r'(?m)^(  stage )"\$NODE_RUNTIME"( .*)$', r"\1containerd\2\n\1docker\2", text)
            steps = re.findall(r"(?m)^  (?:step|stage) ([a-z]+) ", text)
            told[role].update(steps)
            rest = iter(STEPS[role])
            assert all(step in rest for step in steps), name
    assert told == {role: set(steps) for role, steps in STEPS.items()}


def test_a_combined_log_line_cannot_be_forged(tmp_path: Path) -> None:
    log = AccessLog(str(tmp_path / "log"), "combined")
    request = parse(b'GET /a"b HTTP/1.1\r\nHost: x\r\nUser-Agent: x" 200 1\xff\r\nReferer: r')
    log.add("10.0.0.1", text(404, "no").to(request), 12, 0.5)
    log.flush()
    line = (tmp_path / "log").read_text()
    assert re.fullmatch(
        r'10\.0\.0\.1 - - \[[^]]+\] "GET /a\\x22b HTTP/1\.1" 404 12 "r" "x\\x22 200 1\\xff"\n', line
    ), line
