"""Conversion to 16 bits as a whole: `half` converts, `proof` proves every rounding of it."""
