"""The network: layers, first weights, precision, checkpoints."""
