"""The captured network: calls, tensors by their names, what is constant and what is alive."""
