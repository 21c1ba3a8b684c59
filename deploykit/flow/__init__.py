"""LOOPS: the recipe runner and its cache."""
