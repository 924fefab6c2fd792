"""Exports: written as safetensors, pt2 and ONNX, read again, and verified against the checkpoint."""
