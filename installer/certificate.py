"""The server's key pair for TLS: made with the host's openssl, kept so that a restart has the same one."""

import base64
import hashlib
import os
import re
import secrets
import socket
import ssl
import subprocess
import sys
from typing import List, NamedTuple, Tuple

from .address import local_ipv4, local_ipv6
from .errors import HostError

_DAYS = "3650"
_SOON = str(30 * 86400)  # a certificate that ends within so many seconds is replaced
_PEM = re.compile("-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----\n?")
_CA = "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign\nsubjectKeyIdentifier=hash\n"
_LEAF = ("basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\n"
         "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\nsubjectAltName={}\n")


class Identity(NamedTuple):
    """How the server proves itself: a context for its sockets, its CA (PEM), and `sha256//…` for curl's pin."""

    context: ssl.SSLContext
    ca: str
    pin: str


def kept(folder: str, names: List[str]) -> Identity:
    """The pair kept in `folder`, made there if need be; its certificate is good for `names` and all addresses here.

    The CA and both keys stay for good; only the certificate changes when this machine gets another address.
    Raises HostError.
    """
    paths = {name: os.path.join(folder, name) for name in ("ca.key", "ca.pem", "server.key", "server.pem")}
    alternatives = _alternatives(names)
    if not os.path.exists(paths["ca.pem"]):
        _make_key(paths["ca.key"])
        _certify(paths["ca.pem"], _CA, "/CN=kubecarry", paths["ca.key"], ["-signkey", paths["ca.key"]])
    if not os.path.exists(paths["server.key"]):
        _make_key(paths["server.key"])
    if not _good_for(paths["server.pem"], alternatives):
        issuer = ["-CA", paths["ca.pem"], "-CAkey", paths["ca.key"]]
        _certify(paths["server.pem"], _LEAF.format(alternatives), "/CN=kubecarry server", paths["server.key"], issuer)
        write(paths["server.pem"] + ".names", alternatives)
    return load(paths["server.pem"], paths["server.key"], paths["ca.pem"])


def load(certificate: str, key: str, ca: str = "") -> Identity:
    """A pair of PEM files, and who signed it: by default the last certificate of the chain. Raises HostError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= getattr(ssl, "OP_NO_RENEGOTIATION", 0)
    if sys.version_info < (3, 10):  # where TLS 1.2 is not the least by itself
        context.options |= ssl.OP_NO_TLSv1 | ssl.OP_NO_TLSv1_1
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")
        with open(ca or certificate) as file:
            found = _PEM.findall(file.read())
    except (OSError, ValueError) as error:
        raise HostError("{}, {}: cannot be used as certificate and key: {}".format(certificate, key, error),
                        "give two PEM files that belong together, the key without a passphrase") from None
    if not found:
        raise HostError("{}: has no certificate".format(ca), "give --tls-ca the CA's certificate (PEM)")
    return Identity(context, "".join(found) if ca else found[-1], _pin(certificate))


def _alternatives(names: List[str]) -> str:
    """The subject alternative names: every address of this machine, its name, and `names`."""
    found = {"DNS:localhost", "DNS:" + socket.gethostname()}
    for name in [*names, "127.0.0.1", *local_ipv4(), *local_ipv6()]:
        if not name.startswith("fe80:"):
            found.add(("IP:" if _is_address(name) else "DNS:") + name)
    return ",".join(sorted(found))


def _is_address(name: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, name)
        except OSError:
            continue
        return True
    return False


def _good_for(path: str, alternatives: str) -> bool:
    try:
        with open(path + ".names") as file:
            there = set(file.read().split(","))
    except OSError:
        return False
    return there >= set(alternatives.split(",")) and _openssl(["x509", "-checkend", _SOON, "-noout", "-in", path])[0]


def _make_key(path: str) -> None:
    write(path, _must(["ecparam", "-name", "prime256v1", "-genkey", "-noout"]).decode("ascii"))


def _certify(path: str, extensions: str, subject: str, key: str, issuer: List[str]) -> None:
    """Write a certificate for a key, signed by `issuer` (words of openssl x509)."""
    request, config = path + ".request", path + ".config"
    try:
        # A configuration of our own: the host's may be absent, or ask for more.
        write(config, "[req]\ndistinguished_name=name\n[name]\n[extensions]\n" + extensions)
        write(request, _must(["req", "-new", "-key", key, "-subj", subject, "-config", config]).decode("ascii"))
        serial = "0x" + secrets.token_hex(15)
        write(path, _must(["x509", "-req", "-in", request, "-sha256", "-days", _DAYS, "-set_serial", serial,
                            "-extfile", config, "-extensions", "extensions", *issuer]).decode("ascii"))
    finally:
        for name in (request, config):
            if os.path.exists(name):
                os.unlink(name)


def _pin(certificate: str) -> str:
    public = _must(["x509", "-in", certificate, "-pubkey", "-noout"])
    der = ssl.PEM_cert_to_DER_cert(public.decode("ascii").replace("PUBLIC KEY", "CERTIFICATE"))
    return "sha256//" + base64.b64encode(hashlib.sha256(der).digest()).decode("ascii")


def _must(words: List[str]) -> bytes:
    done, output = _openssl(words)
    if not done:
        raise HostError("openssl {} failed: {}".format(words[0], output.decode("utf-8", "replace").strip()),
                        "make a key pair elsewhere and give it with --tls-cert and --tls-key")
    return output


def _openssl(words: List[str]) -> Tuple[bool, bytes]:
    try:
        done = subprocess.run(["openssl", *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE)
    except FileNotFoundError:
        raise HostError("openssl is not installed, so no key can be made",
                        "install openssl, or leave out --tls") from None
    return done.returncode == 0, done.stdout if done.returncode == 0 else done.stderr


def write(path: str, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all. Raises HostError."""
    try:
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(text)
        os.replace(path + ".new", path)
    except OSError as error:
        raise HostError("{}: {}".format(path, error.strerror), "give --state a directory that can be written") \
            from None
