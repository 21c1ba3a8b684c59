"""Whole residual blocks: where they are, what each is worth, and how the graph goes past one."""
