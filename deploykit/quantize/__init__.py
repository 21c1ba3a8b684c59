"""Quantization: ONNX → ONNX. Ranges are measured, quantizers placed, and what went wrong corrected.

```
 float ONNX ──prepare──► float graph ──calibrate──► Ranges (a file) ──place──► QDQ ONNX
```
"""
