"""ResNet-50, compiled and compared: what `make demo` runs.

Takes the architecture that ships in the `onnx` wheel. Its stored weights are all one constant, with
which any network would agree with any other, so it gets random weights of realistic sizes. Then:
compile, check against onnxruntime, show what each pass did, where the time goes, and who is faster.

    python examples/compile_resnet50.py
"""

import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, numpy_helper
from rich.console import Console

import cnnir
from cnnir.backends.llvm.peak import fma_peak
from cnnir.report import cost, history, plan, profile, roofline, timing

MODEL = Path(onnx.__file__).parent / "backend/test/data/light/light_resnet50.onnx"
THREADS = 1
ALLOWED = 1e-5


def with_weights(model: ModelProto, seed: int = 0) -> ModelProto:
    """The model with seeded weights, and with the logits, before the softmax, as a second output.

    Convolutions and the last layer get He-normal weights; batch norms get scales and variances
    about 1 and small shifts, so that signals neither die nor explode on the way through.
    """
    rng = np.random.default_rng(seed)
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    made_by = {node.output[0]: node for node in graph.node if node.op_type == "ConstantOfShape"}

    def shape(name: str) -> tuple[int, ...]:
        """Of a weight that is stored, or made by a ConstantOfShape node."""
        if name in stored:
            return tuple(stored[name].dims)
        return tuple(numpy_helper.to_array(stored[made_by[name].input[0]]))

    def weights(node: NodeProto) -> list[np.ndarray]:
        first, *others = (shape(name) for name in node.input[1:])
        if node.op_type == "BatchNormalization":
            scale = rng.normal(0.7, 0.1, first)
            shift, mean = rng.normal(0, 0.2, (2, *first))
            return [scale, shift, mean, rng.uniform(0.5, 1.5, first)]
        he = np.sqrt(2 / np.prod(first[1:]))
        return [rng.normal(0, he, first), *(rng.normal(0, 0.1, other) for other in others)]

    for node in [n for n in graph.node if n.op_type in ("Conv", "BatchNormalization", "Gemm")]:
        for name, array in zip(node.input[1:], weights(node), strict=True):
            if name in stored:
                graph.initializer.remove(stored[name])
            else:
                graph.node.remove(made_by[name])
            graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    logits = graph.node[-1].input[0]
    graph.output.append(onnx.helper.make_tensor_value_info(logits, onnx.TensorProto.FLOAT, None))
    return model


def main() -> None:
    """The demo, step by step."""
    console = Console(width=130, highlight=False)
    proto = with_weights(onnx.load(MODEL))
    graph = cnnir.load(proto)
    console.print(f"[bold]{MODEL.name}[/]: {cost.summary_text(graph)}\n")

    start = time.perf_counter()
    exe = cnnir.compile(graph, threads=THREADS)
    console.print(f"compiled in {time.perf_counter() - start:.2f} s: {plan.sizes_text(exe.plan)}\n")
    console.print(history.history_table(exe.history))

    # the same image through both
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 3  # it warns of every weight that is not used any more
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    image = np.random.default_rng(1).standard_normal((1, 3, 224, 224), dtype=np.float32)
    feeds = {graph.inputs[0].name: image}
    ours = exe.run(feeds)
    theirs = dict(zip(ours, session.run(list(ours), feeds), strict=True))
    for name, y in ours.items():
        error = np.abs(y - theirs[name]).max() / np.abs(theirs[name]).max()
        console.print(f"{name}: error against onnxruntime {error:.1e} of the largest value")
        assert error <= ALLOWED, f"{name} is further from onnxruntime than {ALLOWED}"

    machine = roofline.Roofline(THREADS * fma_peak() * 1e9)
    runs = [exe.profile(feeds) for _ in range(7)][2:]
    steps = profile.profile_rows(exe.plan, runs, machine)
    console.print(profile.profile_table("by kernel", profile.kernel_rows(steps)))
    title = f"the slowest steps; {roofline.machine_text(machine)}, threads: {THREADS}"
    console.print(profile.profile_table(title, steps, top=12))

    runners = {"cnnir": lambda: exe.run(feeds), "onnxruntime": lambda: session.run(None, feeds)}
    rows = timing.timing_rows(timing.interleaved(runners, seconds=6), cost.summary(graph)["flops"])
    console.print(timing.timing_table(f"one image, in turn; threads: {THREADS}", rows))
    exe.close()


if __name__ == "__main__":
    main()
