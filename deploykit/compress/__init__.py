"""Model -> Model: everything that makes a PyTorch network smaller before it is exported."""
