"""An ONNX graph: its values, constants and wiring, and how it is written."""
