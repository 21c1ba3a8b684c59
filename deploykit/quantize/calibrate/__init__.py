"""Ranges of values: the graph runs over data, observers see every activation."""
