"""A small faithful internet on this machine: real servers with real content, under the true upstream names."""
