"""Separable convolutions: a trained k x k convolution becomes a depthwise and a pointwise one.

| file | what it has |
| --- | --- |
| `options`, `plan`, `counts` | the nouns: what is asked for, what was split, weights and MACs |
| `choose` | which convolutions can be split, and why the others stay |
| `split` | kernel -> the nearest two kernels (least squares over weights) |
| `graph_layers` | a network that is a graph -> one with modules to split |
| `convert` | network and plan -> the network with its layers split |
| `moments`, `fit` | what a layer sees -> the two kernels nearest to its outputs (over data) |
| `refit` | both in turn, layer by layer |
"""
