"""What makes integers accurate: weights, biases and their rounding, adjusted before and after."""
