"""Getting what the locks name: over HTTP, from registries, from mirrors, folders and former bundles."""
