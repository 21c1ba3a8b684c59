"""Dependency analysis: what must be cut together, and how a call is rewritten after a cut."""
