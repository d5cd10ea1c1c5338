"""Packages on NVIDIA's Triton Inference Server: the model repository, the model, and the server itself."""
