"""The user's own class, smaller: repaired attributes, and a comparison with the cut graph."""
