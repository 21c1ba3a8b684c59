"""Early exits: heads on the way through a network, and the rules by which samples leave there.

| file | what it has |
| --- | --- |
| `temperature` | logits and labels -> the temperature that makes an exit's probabilities true |
| `thresholds` | what exits answered on held-out data -> thresholds for a target, and the curve |
"""
