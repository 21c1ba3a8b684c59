"""Making a network separable, as a whole: choose by measurement, split, fit, distil, hand over.

| file | what it has |
| --- | --- |
| `loop`, `request`, `record` | the nouns: how it goes on, what is asked for, what came of it |
| `latency` | which layers get faster, on the runtime |
| `samples` | what kernels are fitted to |
| `work` | a loaded network on its way |
| `separable` | all of it in a row |
"""
