"""Quantization: ONNX → ONNX. Ranges are measured and quantizers placed where they help.

```
 float ONNX ──prepare──► float graph ──calibrate──► Ranges (a file) ──place──► QDQ ONNX
```
"""
