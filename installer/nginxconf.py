"""nginx.conf of an exported tree: the files as they lie there, and the images by maps from names to blobs."""

import json
import re
from typing import Container, Dict, Iterable, List, Tuple
from urllib.parse import quote

from .images import Images, Repository, blob_path

MADE = "v2/.made"  # blobs of charts, which no image of the bundle has
_BINARY = "application/octet-stream"
_HUBS = ("docker.io", "index.docker.io", "registry-1.docker.io")
_CONFIG = """\
# Made by `installer export`; begin with:  nginx -p {folder} -c nginx.conf
# All paths are relative to the folder given with -p, so the whole tree may be moved.
worker_processes auto;
pid run/nginx.pid;
error_log run/error.log warn;
events {{ worker_connections 4096; }}

http {{
  access_log off;
  server_tokens off;
  sendfile on;
  tcp_nopush on;
  sendfile_max_chunk 512k;
  keepalive_requests 100000;
  client_body_temp_path run/body;
  proxy_temp_path run/proxy;
  fastcgi_temp_path run/fastcgi;
  uwsgi_temp_path run/uwsgi;
  scgi_temp_path run/scgi;
  map_hash_bucket_size 1024;
  map_hash_max_size 65536;

  types {{
    application/json json;
    application/xml xml;
    application/gzip gz tgz;
    application/x-rpm rpm;
    application/vnd.debian.binary-package deb;
    application/pgp-keys gpg asc;
    application/yaml yaml yml;
    application/x-pem-file pem;
    text/html html;
    text/plain sh repo sources list;
  }}
  default_type application/octet-stream;

  # Who is asked for as a mirror of whom ("?ns=" of the request, "|", name in its path) -> repository of the bundle.
  map "$arg_ns|$v2_name" $v2_repository {{
    default "";
{repositories}
  }}

  # Repository, and what of it -> kind and digest.
  map "$v2_repository/$v2_what" $v2_member {{
    default "none";
{members}
  }}

  map $v2_what $v2_error {{
    default "MANIFEST_UNKNOWN";
    ~^blobs/ "BLOB_UNKNOWN";
    ~^tags/ "NAME_UNKNOWN";
  }}

  server {{
{listen}
    root www;
    if ($request_method !~ "^(GET|HEAD)$") {{ return 405; }}

    location = /SHA256SUMS {{ default_type text/plain; }}
    location = /api/bundle {{ default_type application/json; }}
    location /lists/ {{ types {{ }} default_type text/plain; }}
    location ~ ^/v2/?$ {{
      default_type application/json;
      add_header Docker-Distribution-Api-Version registry/2.0 always;
      return 200 "{{}}";
    }}
    location = /v2/_catalog {{ types {{ }} default_type application/json; }}
    location ~ ^/v2/(?<v2_name>[a-z0-9._:/-]+)/(?<v2_what>(?:manifests|blobs|tags)/[^/]+)$ {{
      rewrite ^ /.v2/$v2_member last;
    }}
    location ~ ^/\\.v2/tags/(?<v2_listed>.+)$ {{
      internal;
      types {{ }}
      default_type application/json;
      alias www/v2/$v2_listed/tags/list;
    }}
{kinds}
    location /.v2/ {{
      internal;
      default_type application/json;
      return 404 '{{"errors":[{{"code":"$v2_error","message":"the bundle has none of that name","detail":null}}]}}';
    }}
  }}
}}
"""
_KIND = """\
    location ~ ^/\\.v2/{kind}/(?<v2_hex>[0-9a-f]+)$ {{
      internal;
      types {{ }}
      default_type "{media_type}";
      add_header Docker-Distribution-Api-Version registry/2.0;
      add_header Docker-Content-Digest sha256:$v2_hex;
      alias www/{place}/$v2_hex;
    }}"""


def render(images: Images, made: Container[str], folder: str, listen: Iterable[str]) -> str:
    """The whole configuration, for a tree at `folder` that listens on `listen`: ports, or `[::]:PORT`.

    `made` are the digests that lie in MADE, all others are blobs of the bundle.
    """
    repositories = {name: found for name, found in ((name, images.find(name)) for name in images.names) if found}
    kinds: Dict[Tuple[str, str], str] = {}
    members: Dict[str, str] = {}
    for name, repository in repositories.items():
        members.update(_members(name, repository, made, kinds))
    locations = [_KIND.format(kind=kind, media_type=media_type, place=place)
                 for (media_type, place), kind in sorted(kinds.items())]
    return _CONFIG.format(
        folder=folder, repositories=_map(_spellings(images, list(repositories))), members=_map(members),
        kinds="\n".join(locations),
        listen="\n".join("    listen {};".format(one) for one in sorted(set(listen))))


def listing(name: str, repository: Repository) -> bytes:
    """The reply to `tags/list` of a repository."""
    return (json.dumps({"name": name, "tags": sorted(repository.tags)}) + "\n").encode("ascii")


def place_of(digest: str, made: Container[str]) -> str:
    """The directory that holds a blob."""
    return MADE if digest in made else blob_path("sha256:").rstrip("/")


def _members(name: str, repository: Repository, made: Container[str],
             kinds: Dict[Tuple[str, str], str]) -> Dict[str, str]:
    """What of a repository is where; `kinds` gets a word for each media type and directory."""
    def found_as(digest: str, media_type: str) -> str:
        kind = media_type or _BINARY, place_of(digest, made)
        return "{}/{}".format(kinds.setdefault(kind, "kind{}".format(len(kinds))), digest.partition(":")[2])

    found = {"{}/blobs/{}".format(name, digest): found_as(digest, _BINARY) for digest in repository.blobs}
    for digest, media_type in repository.manifests.items():
        found["{}/manifests/{}".format(name, digest)] = found_as(digest, media_type)
    for tag, digest in repository.tags.items():
        found["{}/manifests/{}".format(name, tag)] = found["{}/manifests/{}".format(name, digest)]
    found[name + "/tags/list"] = "tags/" + name
    return found


def _spellings(images: Images, names: List[str]) -> Dict[str, str]:
    """Every way to ask for the repositories that the server knows, too."""
    found: Dict[str, str] = {}
    for full in names:
        registry, _, rest = full.partition("/")
        rests = {rest, rest[len("library/"):] if rest.startswith("library/") else rest}
        hosts = {registry} | (set(_HUBS) if registry in _HUBS else set())
        for asked in rests | {"{}/{}".format(host, one) for host in hosts for one in rests}:
            for mirrored in hosts | {""}:
                repository = images.find(asked, mirrored)
                if repository is not None and repository.name == full:
                    found["{}|{}".format(mirrored, asked)] = full
                    found["{}|{}".format(quote(mirrored, safe=""), asked)] = full
    return found


def _map(entries: Dict[str, str]) -> str:
    """Lines of a map. nginx ignores case in plain keys; those that differ in nothing else are written as patterns."""
    folded: Dict[str, int] = {}
    for key in entries:
        folded[key.lower()] = folded.get(key.lower(), 0) + 1
    return "\n".join('    {} "{}";'.format(_key(key, folded[key.lower()] > 1), entries[key]) for key in sorted(entries))


def _key(key: str, alike: bool) -> str:
    return '"~^{}$"'.format(re.escape(key).replace("\\", "\\\\")) if alike else '"{}"'.format(key)


def objects(repositories: Iterable[Repository]) -> List[Tuple[str, str, str]]:
    """What /v2/ is made of where nothing maps names: (path, digest, media type), every tag, manifest and blob."""
    found: List[Tuple[str, str, str]] = []
    for one in repositories:
        kinds = one.manifests
        base = "v2/{}/".format(one.name)
        found += [(base + "blobs/" + digest, digest, _BINARY) for digest in sorted(one.blobs)]
        found += [(base + "manifests/" + digest, digest, kind) for digest, kind in sorted(kinds.items())]
        found += [(base + "manifests/" + tag, digest, kinds[digest]) for tag, digest in sorted(one.tags.items())]
    return found
