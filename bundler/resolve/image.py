"""Images: which digest a tag stands for now, and for which platforms it is made."""

from __future__ import annotations

import hashlib
import json
import re

from bundler.errors import IntegrityError
from bundler.fetch.images import parse
from bundler.fetch.registry import Manifest, Reference, Registry
from bundler.locked import LockedImage


def resolve_image(ref: str, registry: Registry) -> LockedImage:
    """Return the digest of the index, or of the manifest where there is no index, and the platforms that it offers.

    A tag ``sha256-<hex>`` stands for that digest. FetchError where the registry does not give it, IntegrityError where
    it is no image.
    """
    reference = Reference.parse(ref)
    if by_digest := re.fullmatch("sha256-([0-9a-f]{64})", reference.tag):
        reference = reference.at(f"sha256:{by_digest[1]}")
    manifest = registry.manifest(reference)
    document = parse(manifest.body, ref)
    if document.is_index:
        # Attestations are listed as unknown/unknown
        platforms = {part.platform for part in document.children} - {"", "unknown/unknown"}
    else:
        platforms = {_platform(reference, manifest, registry)}
    if not platforms:
        raise IntegrityError(f"{ref}: names no platform that it is made for", "Ask for another tag of this image.")
    how = "digest" if reference.digest else "tag"
    return LockedImage(ref, manifest.digest, tuple(sorted(platforms)), f"{reference.registry}, asked by {how}")


def _platform(reference: Reference, manifest: Manifest, registry: Registry) -> str:
    """Return the platform in the image's config, the only place that says so where there is no index."""
    part = parse(manifest.body, str(reference)).blobs[0]
    blob = registry.blob(reference, part.digest, part.size)
    config = registry.client.page(blob.url, auth=blob.auth, pinned=True).body
    if hashlib.sha256(config).hexdigest() != part.sha256:
        raise IntegrityError(f"{reference}: the registry gives a config that is not {part.digest}", "Try again.")
    try:
        fields = json.loads(config)
        return f"{fields['os']}/{fields['architecture']}"
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{reference}: its config names no platform") from error
