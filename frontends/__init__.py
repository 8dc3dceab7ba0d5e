"""Ways into the IR: the ONNX importer and, later, the Python DSL."""

if __name__ != "cnnir.frontends":
    raise ImportError(
        "import cnnir.frontends, not frontends: a second copy would have its own registries"
    )
