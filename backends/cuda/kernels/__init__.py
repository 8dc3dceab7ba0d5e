"""Tuned kernels: CUDA C templates for one exact shape."""
