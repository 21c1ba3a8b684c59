"""Model -> ONNX: capture, translate, clean, check, write."""
