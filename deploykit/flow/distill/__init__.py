"""Distillation as a whole: load all, train the student, judge, hand over.

| file | what it has |
| --- | --- |
| `request`, `record` | the nouns: what is asked for, and what came of it |
| `lessons` | the data: with labels, without, or both |
| `pair` | student and teachers as they take the data, tried together |
| `smaller` | a student that is a smaller copy of its teacher |
| `doubts` | what may be wrong with the pair, in sentences |
| `distill` | all of it in a row |
| `stage` | the same as a stage of a recipe |
"""
