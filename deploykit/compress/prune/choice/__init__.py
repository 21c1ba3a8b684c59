"""Which channels go: scores, ranked and rounded to what the target likes."""
