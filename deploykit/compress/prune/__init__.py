"""Structured pruning: channels, heads and blocks go, matrices stay dense.

```
 Model ──graph──► Program ──analyse──► Structure ──score, select──► Plan ──cut──► Model
```
"""
