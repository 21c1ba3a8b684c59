"""Exits, as a whole: place them, train them, calibrate, solve thresholds, measure, hand over.

| file | what it has |
| --- | --- |
| `loop`, `request`, `record` | the nouns: how it goes on, what is asked for, what came of it |
| `place` | which layers, by measured cost, where nobody named any |
| `said` | what every exit says of a data set, in ONNX Runtime |
| `cost` | what leaving at each exit takes, measured |
| `solve` | temperatures, thresholds for the target, and the curve |
| `stages` | the artifact's stages: cut, written, proved |
| `deliver`, `told` | what export adds to the artifact: stages, one graph, their document |
| `stage` | the stage "exits" of a recipe |
| `work` | a loaded network on its way |
| `exits` | all of it in a row |
"""
