"""Early exits: heads on the way through a network, and the rules by which samples leave there.

| file | what it has |
| --- | --- |
| `options`, `plan` | the nouns: where exits are and how they learn; what rebuilds the network |
| `heads` | one run of a network -> the head that each layer gets |
| `network`, `loss` | a network that answers at every exit, and how all of them learn |
| `temperature` | logits and labels -> the temperature that makes an exit's probabilities true |
| `thresholds` | what exits answered on held-out data -> thresholds for a target, and the curve |
"""
