"""The servers: nginx for files and, in front of Debian's docker-registry, for images; both on 127.0.0.1."""

from __future__ import annotations

import json
import os
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from tests.lab.lab import Process, end, launch, until

from .home import LabError, home, lock, say

NGINX = """\
daemon off;
user root;
worker_processes 1;
pid {run}/nginx.own.pid;
error_log {log}/nginx.error.log warn;
events {{ worker_connections 512; }}
http {{
    default_type application/octet-stream;
    types {{ text/plain txt sha256; application/yaml yml yaml; application/xml xml; application/x-rpm rpm; }}
    log_format asked escape=json '{{"time":"$time_iso8601","method":"$request_method","path":"$request_uri",'
        '"status":$status,"bytes":$body_bytes_sent,"range":"$http_range","agent":"$http_user_agent"}}';
    client_body_temp_path {run}/body; proxy_temp_path {run}/proxy; fastcgi_temp_path {run}/fastcgi;
    uwsgi_temp_path {run}/uwsgi; scgi_temp_path {run}/scgi;
    sendfile on; keepalive_requests 100000; client_max_body_size 0;
    server {{
        listen 127.0.0.1:{files};
        access_log {log}/files.jsonl asked;
        root {site};
        autoindex on;
    }}
    server {{
        listen 127.0.0.1:{registry};
        access_log {log}/registry.jsonl asked;
        location / {{
            proxy_pass http://unix:{run}/registry.sock:;
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""


def ports() -> tuple[int, int]:
    """Return the ports of the file server (LAB_FILES_PORT) and of the registry (LAB_REGISTRY_PORT)."""
    return int(os.environ.get("LAB_FILES_PORT") or 18080), int(os.environ.get("LAB_REGISTRY_PORT") or 15000)


def start() -> None:
    """Start both servers over what was built, unless they run already as configured; LabError if they do not."""
    files, registry = ports()
    with lock("servers"):
        for directory in ("run", "log"):
            (home() / directory).mkdir(parents=True, exist_ok=True)
        socket_path = _run("registry.sock")
        registry_config = _registry_config(
            home() / "registry/data", {"net": "unix", "addr": str(socket_path)}, readonly=True
        )
        nginx_config = NGINX.format(
            run=home() / "run", log=home() / "log", site=home() / "site", files=files, registry=registry
        )
        _ensure("registry", "yml", registry_config, ["docker-registry", "serve"], socket_path)
        _ensure("nginx", "conf", nginx_config, ["nginx", "-e", "stderr", "-c"])
        for url in (f"http://127.0.0.1:{files}/", f"http://127.0.0.1:{registry}/v2/"):
            if not until(lambda url=url: _answers(url), 10):  # type: ignore[misc]
                raise LabError(f"{url} does not answer: see {home() / 'log'}")


def stop() -> None:
    """Stop both servers, if they run."""
    with lock("servers"):
        for name in ("nginx", "registry"):
            end(_run(f"{name}.pid"))


def status() -> dict[str, int | None]:
    """Return the pid of each server, None for one that does not run."""
    running = {name: Process.load(_run(f"{name}.pid")) for name in ("nginx", "registry")}
    return {name: process.pid if process else None for name, process in running.items()}


def accesses(server: str) -> list[dict[str, object]]:
    """Return the access log of `files` or `registry`, oldest first.

    A request is {time, method, path, status (int), bytes (of the body, int), range ("" or the header), agent}.
    """
    path = home() / "log" / f"{server}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@contextmanager
def temporary_registry(data: Path) -> Iterator[str]:
    """Run a writable registry over the directory data while the block runs; yields its address, HOST:PORT."""
    data.mkdir(parents=True)
    with registry_over(data, data.parent, readonly=False) as address:
        yield address


@contextmanager
def registry_over(data: Path, place: Path, readonly: bool = True) -> Iterator[str]:
    """Run a registry on a free port while the block runs, its files in place; yields its address, HOST:PORT."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    config = place / "registry.yml"
    config.write_text(_registry_config(data, {"addr": address}, readonly=readonly))
    process = launch(["docker-registry", "serve", config], place / "registry.log")
    try:
        if not until(lambda: _answers(f"http://{address}/v2/"), 10):
            raise LabError(f"docker-registry did not start: see {data.with_name('registry.log')}")
        yield address
    finally:
        process.kill(signal.SIGTERM)
        process.ended(5)


def _registry_config(data: Path, http: dict[str, str], readonly: bool) -> str:
    return yaml.safe_dump(
        {
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "http": http,
            "storage": {"filesystem": {"rootdirectory": str(data)}, "maintenance": {"readonly": {"enabled": readonly}}},
        }
    )


def _run(name: str) -> Path:
    return home() / "run" / name


def _ensure(name: str, suffix: str, config: str, words: list[str], socket_path: Path | None = None) -> None:
    """Have the server run with this configuration: leave it, start it, or start it anew."""
    path = _run(f"{name}.{suffix}")
    if Process.load(_run(f"{name}.pid")) and path.exists() and path.read_text() == config:
        return
    end(_run(f"{name}.pid"))
    path.write_text(config)
    if socket_path:
        socket_path.unlink(missing_ok=True)
    say(f"starting {name}")
    launch([*words, path], home() / "log" / f"{name}.log").save(_run(f"{name}.pid"))


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False
