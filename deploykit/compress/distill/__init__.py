"""Distillation: a network learns what another, its teacher, gives for the same inputs."""
