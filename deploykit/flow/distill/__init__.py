"""Distillation as a whole: load both, train the student, judge, hand over.

| file | what it has |
| --- | --- |
| `request`, `record` | the nouns: what is asked for, and what came of it |
| `distill` | all of it in a row |
"""
