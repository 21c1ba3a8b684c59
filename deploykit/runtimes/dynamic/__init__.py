"""Networks that choose at run time how much of them runs. NumPy and a runtime only.

| file | what it has |
| --- | --- |
| `rules` | when a sample leaves at an exit |
"""
