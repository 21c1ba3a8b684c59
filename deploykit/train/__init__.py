"""ONE training loop, on Accelerate, used by everything that trains."""
