"""Quantizers: which nodes and values get them, by target, and what they are."""
