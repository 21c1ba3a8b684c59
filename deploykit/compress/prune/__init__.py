"""Structured pruning: channels, heads and blocks go, matrices stay dense.

```
 Model ──graph──► Program ──analyse──► Structure ──score, select──► Plan ──cut──► Model
                     └──────────────── oracle: does it still compute the same? ───┘
```

The idea: every index that could be cut has a number, its *label*. Labels lie on dimensions of
tensors. One pass over the exported graph carries them from the parameters to the outputs: views
move them, arithmetic unites them (a residual sum makes channel 3 of one convolution and channel 3
of another one thing), and what cannot be followed locks them, with a reason for people. What must
go together then is a set of labels; sets that lie in the same dimensions are a *group*.

| room | what it has |
| --- | --- |
| `structure`, `plan`, `options` | the nouns: groups, what was kept, what is asked for |
| `graph/` | the captured network, cleaned: what is constant, what is alive |
| `analysis/` | labels, the rules for operators, groups; what a call says after a cut; MACs |
| `choice/` | which channels go: scores, ranking, what the target likes |
| `depth/` | whole residual blocks: found, scored, bypassed |
| `cutting/` | the smaller graph, and the oracle: proof in float64 against the original with zeros |
| `own_class/` | the user's own class, smaller |

A room imports those above it in this table only (import-linter holds it). Two rules hold
everywhere: what was given is never changed, and nothing here measures or judges. A new operator
needs a function in its family's file of `analysis/rules/` and its name in `RULES`; the oracle is
its test.
"""
