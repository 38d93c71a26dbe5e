"""The connected side: a release manifest becomes one checksummed tarball."""

__version__ = "0.1.0"
