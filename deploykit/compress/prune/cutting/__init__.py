"""The smaller graph, and the proof that it computes what it should."""
