"""The same work done with the peers' own tools, each in a process of its own.

What they need is pinned in `requirements.txt` and never enters the environment of deploykit.
"""
