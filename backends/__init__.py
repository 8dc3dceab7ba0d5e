"""Ways out of the IR: each backend turns a Graph into an Executable."""

if __name__ != "cnnir.backends":
    raise ImportError("import cnnir.backends, not backends: a second copy would have its own state")
