"""Quantization as a whole: try, search, measure, judge, hand over.

| file | what it has |
| --- | --- |
| `request`, `record` | the nouns: what is asked for, and what came of it |
| `work`, `ranges` | trials become graphs and files; one pass over the data serves them all |
| `noise`, `rank`, `layers` | how noisy each layer is, which do harm, and the table of them |
| `search`, `control` | the most in integers that does not lose too much |
| `speed`, `judge` | what is slower goes back; the verdict, measured in turns |
| `quantize` | all of it in a row |
"""
