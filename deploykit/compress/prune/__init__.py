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

| files | what they do |
| --- | --- |
| `structure`, `plan`, `options` | the nouns: groups, what was kept, what is asked for |
| `graph`, `constants`, `liveness`, `cost` | the captured network, cleaned; its MACs |
| `labels`, `trace`, `views`, `rules/`, `analyse`, `origins`, `groups` | dependency analysis |
| `score*`, `evidence`, `candidates`, `ranking`, `footprint`, `select` | which channels go |
| `cut`, `edit` | the smaller graph: sliced weights, literals rewritten by the rules |
| `oracle` | proof in float64 against the original with zeros |
| `blocks`, `block_names`, `bypass`, `score_blocks`, `choose_blocks` | whole residual blocks |
| `keep_class`, `class_*`, `attributes`, `fold_scale`, `block_modules` | the user's own class |

Two rules hold everywhere: what was given is never changed, and nothing here measures or judges.
A new operator needs a function in its family's file of `rules/` and its name in `RULES`; the
oracle is its test.
"""
