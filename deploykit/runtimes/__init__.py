"""RUN an artifact: one file a runtime."""
