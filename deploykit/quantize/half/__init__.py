"""Half precision: a float32 graph becomes one of float16 or bfloat16, where that is safe.

```
 prepared graph, ranges ──decide──► which nodes stay float32, and why ──emit──► ONNX of 16 bits
                                                                     └──simulate──► what it rounds
```

| file | what it has |
| --- | --- |
| `formats` | the two formats: what fits, and what a tensor loses |
| `rules` | tables of operators: no kernel, sums, angles, what magnifies rounding near zero |
| `ports` | which inputs and outputs of a node may be of 16 bits, from ONNX's own schemas |
| `opset` | raised for bfloat16, where that changes nothing |
| `decide` | which nodes stay float32 |
| `emit` | the graph of 16 bits: one cast a value and type, constants, declared types |
| `simulate` | the float32 graph with every rounding of the other written out, to prove it by |
"""
