"""Any float ONNX file as a graph that quantizers fit into, computing the same."""
