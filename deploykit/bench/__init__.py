"""MEASURE, never judge: timing, memory, machine facts, and the statistics of raw samples."""
