"""Pruning as a whole: aim, cut and fine-tune in rounds, judge, hand over.

| file | what it has |
| --- | --- |
| `request`, `loop`, `record` | the nouns: what is asked for, to which aim, and what came of it |
| `size`, `cutting`, `tune` | one step: groups and sizes; which channels go; training |
| `aim`, `latency`, `precision` | from a latency to counts of channels, measured as it will ship |
| `depth`, `rounds` | whole blocks first, then round by round; what is finished is kept |
| `judge`, `picture`, `recipe` | verdict, picture and the recipe that builds the result again |
| `work`, `prune` | all of it in a row |
"""
