"""What one would use instead: nginx, `python3 -m http.server`, docker-registry, each on the same bytes."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.request import urlopen

from tests.serving import free_port

NGINX = """
worker_processes 2;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.err;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 100000000;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{ listen 127.0.0.1:{port} backlog=4096; root {root}; }}
  {more}
}}
"""
REGISTRY = """
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {folder}/registry}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


@contextlib.contextmanager
def nginx(folder: Path, root: Path) -> Iterator[int]:
    """nginx as packaged, two workers, sendfile on; its port."""
    with _nginx(folder, root, "") as port:
        yield port


@contextlib.contextmanager
def nginx_tls(folder: Path, root: Path, state: Path) -> Iterator[int]:
    """The same with TLS, by the server's own certificate and key in `state`; its port."""
    port = free_port()
    more = (
        f"server {{ listen 127.0.0.1:{port} ssl; root {root}; ssl_certificate {state}/server.pem; "
        f"ssl_certificate_key {state}/server.key; ssl_protocols TLSv1.2 TLSv1.3; }}"
    )
    with _nginx(folder, root, more):
        yield port


@contextlib.contextmanager
def _nginx(folder: Path, root: Path, more: str) -> Iterator[int]:
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, root=root, port=port, more=more))
    with _running(["nginx", "-c", str(config), "-p", str(folder)], f"http://127.0.0.1:{port}/SHA256SUMS", folder):
        yield port


@contextlib.contextmanager
def http_server(folder: Path, root: Path) -> Iterator[int]:
    """Python's own file server; its port."""
    port = free_port()
    command = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(root), str(port)]
    with _running(command, f"http://127.0.0.1:{port}/SHA256SUMS", folder):
        yield port


@contextlib.contextmanager
def registry(folder: Path, source: str, names: Sequence[str]) -> Iterator[int]:
    """docker-registry, filled by skopeo with `names` (repository:tag) from the registry `source`; its port."""
    port = free_port()
    config = folder / "registry.yml"
    config.write_text(REGISTRY.format(folder=folder, port=port))
    with _running(["docker-registry", "serve", str(config)], f"http://127.0.0.1:{port}/v2/", folder):
        for name in names:
            copy = [
                "skopeo",
                "copy",
                "--src-tls-verify=false",
                "--dest-tls-verify=false",
                f"docker://{source}/{name}",
                f"docker://127.0.0.1:{port}/{name}",
            ]
            subprocess.run(copy, check=True, capture_output=True)
        yield port


@contextlib.contextmanager
def _running(command: Sequence[str], url: str, folder: Path) -> Iterator[None]:
    with (folder / "peer.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), urlopen(url) as reply:
                assert reply.status == 200
                break
            assert process.poll() is None and time.monotonic() < deadline, (folder / "peer.log").read_text()
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(20)
