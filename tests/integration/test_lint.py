"""Doubtful manifests are told of when a bundle is built, and travel all the same."""

from __future__ import annotations

from tests.integration.upstream.site import Site


def test_build_warns_of_what_a_manifest_carries(site: Site) -> None:
    (site.root / "mail.yaml").write_text(
        "kind: ConfigMap\nmetadata: {name: mail}\ndata:\n  config: |\n    smtp_auth_password: hunter22\n"
    )
    site.run("lock", "--manifest", "mail.yaml")
    said = site.run("build", "--manifest", "mail.yaml", "-o", "doubtful.tar").stderr
    assert "warning: manifests/own/mail.yaml:5: carries a value for smtp_auth_password" in said
    assert "hunter22" not in said
    site.run("lock", "--drop", "mail.yaml")
    assert "warning: " not in site.run("build", "-o", "clean.tar").stderr
