"""A very small upstream of real servers: RPMs by rpmbuild, images in Debian's registry, files over HTTP."""
