"""The air-gapped side: serves a bundle to nodes. Standard library only, Python 3.6 and up."""
