"""The HTTP server: one epoll loop per process, members sent in place out of the bundle."""
