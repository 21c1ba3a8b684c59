"""A graph that answers at several exits -> what runs no further than it must. ONNX to ONNX.

| file | what it has |
| --- | --- |
| `cut` | graph and exits -> which nodes each stage has, and what passes from one to the next |
| `crossing` | of what passes: where its samples lie, found by running the graph |
| `stages` | both -> a model for each stage |
| `one_graph` | stages and rules -> one model with `If` |
"""
