"""Tuned kernel templates: Python functions that emit LLVM IR for one exact shape."""
