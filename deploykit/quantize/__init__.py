"""Quantization: ONNX → ONNX. Ranges are measured and quantizers placed where they help.

```
 float ONNX ──prepare──► float graph ──calibrate──► Ranges (a file) ──place──► QDQ ONNX
```

| room | what it has |
| --- | --- |
| `ranges`, `options`, `calibration_options`, `half_options` | the nouns: seen, and asked for |
| `graph/` | an ONNX graph's values, constants and wiring; how it is written |
| `prepare/` | any float file becomes a graph that quantizers fit into; what it computes stays |
| `calibrate/` | data runs through it piece by piece; histograms; how a range is chosen |
| `half/` | 16 bits in place of integers: which nodes stay float32, and why |
| `place/` | tables by target: which nodes, which values; the quantizers and the integer weights |
| `adjust/` | what makes integers accurate: equalised, smoothed, rounded and corrected weights |
| `quantize` | all of it in a row |

A room imports those above it in this table only (import-linter holds it). Nothing here measures
or judges, and nothing needs torch.
"""
