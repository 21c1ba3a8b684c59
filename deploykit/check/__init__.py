"""JUDGE, never measure: parity, and accuracy with its metrics (NumPy)."""
