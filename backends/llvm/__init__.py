"""The LLVM backend: a Graph becomes native code in this process."""
