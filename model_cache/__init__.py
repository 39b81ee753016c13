"""How a model gets here and how long it stays. Knows nothing of tensors or OpenVINO."""
