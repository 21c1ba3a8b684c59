"""One file a question; each prints its figures beside its goal. See `RESULTS.md`."""

NAMES = (
    "startup",
    "fidelity",
    "memory",
    "export",
    "pruning_coverage",
    "pruning_accuracy",
    "pruning_latency",
    "calibration_memory",
    "int8_accuracy",
    "int8_speed",
    "chain",
    "half_precision",
    "training_throughput",
    "distillation",
    "multi_exit",
    "separable",
)
