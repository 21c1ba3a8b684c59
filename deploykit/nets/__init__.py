"""NETWORKS that we can build: the reference networks of `models/`."""
