"""Distillation: a network learns what another, its teacher, gives for the same inputs.

| file | what it has |
| --- | --- |
| `options` | what is asked for, and how it changes on the way |
| `soft_targets`, `decoupled`, `relations` | losses between outputs, each as in its paper |
| `outputs` | which outputs are compared, and by which of these losses |
| `layers` | what layers give on the way, by hooks that do not stay |
| `features` | losses between layers: hints and attention |
| `graph_layers` | layers of captured graphs, which have no modules to hook |
| `teachers` | networks that only answer |
| `loss` | all of it as one `Loss` of training: `taught` makes it |
| `at_size` | a network that takes images of other sizes |
"""
