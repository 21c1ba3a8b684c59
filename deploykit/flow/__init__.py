"""LOOPS: what commands do from end to end, and the recipe runner with its cache.

`prune/`, `quantize/` and `half/` each have a room; what they share stands beside them.
"""
