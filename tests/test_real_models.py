"""Whole real architectures with random realistic weights, and trained models with known outputs.

The architectures ship in the onnx wheel with constant weights, under which any net agrees with any
other; here they get seeded random ones and are compared with onnxruntime before the softmax. The
trained models lie beside the checkout in some workplaces; without them those tests skip.
"""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from cuda_harness import needs_compiler
from onnx import ModelProto, NodeProto, numpy_helper

import cnnir
from cnnir.backends.llvm.target import CpuTarget

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
QUICK = ["squeezenet", "shufflenet", "inception_v1"]
SLOW = ["bvlc_alexnet", "densenet121", "inception_v2", "resnet50", "vgg19", "zfnet512"]
TRAINED = Path(__file__).resolve().parents[2] / "shared" / "models"


def with_random_weights(model: ModelProto, seed: int) -> ModelProto:
    """He-normal weights, batch-norm statistics about 1, and the logits as the only output."""
    rng = np.random.default_rng(seed)
    graph = model.graph
    stored = {t.name: t for t in graph.initializer}
    makers = {n.output[0]: n for n in graph.node if n.op_type == "ConstantOfShape"}
    taken: dict[str, np.ndarray] = {}

    def shape(name: str) -> tuple[int, ...]:
        if name in stored:
            return tuple(stored[name].dims)
        return tuple(numpy_helper.to_array(stored[makers[name].input[0]]))

    for node in graph.node:
        for position, name in enumerate(node.input):
            if name in stored or name in makers:
                array = _draw(rng, node, position, shape(name))
                if array is not None:
                    taken[name] = array.astype(np.float32)
    kept = [t for t in graph.initializer if t.name not in taken]
    nodes = [n for n in graph.node if n.output[0] not in taken]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept + [numpy_helper.from_array(a, n) for n, a in taken.items()])
    graph.node.extend(nodes)
    last = graph.node[-1]
    if last.op_type == "Softmax":
        graph.output[0].name = last.input[0]
        graph.node.pop()
        graph.output[0].type.tensor_type.ClearField("shape")
    return model


def _draw(
    rng: np.random.Generator, node: NodeProto, position: int, shape: tuple[int, ...]
) -> np.ndarray | None:
    if node.op_type == "BatchNormalization":
        spread = {1: (0.7, 0.1), 2: (0, 0.2), 3: (0, 0.2)}.get(position)
        return rng.uniform(0.5, 1.5, shape) if spread is None else rng.normal(*spread, shape)
    if node.op_type in ("Conv", "Gemm") and position == 1:
        return rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
    if node.op_type in ("Conv", "Gemm", "Add", "Mul"):
        return rng.normal(1 if node.op_type == "Mul" else 0, 0.1, shape)
    return None


def against_onnxruntime(model: ModelProto, **options) -> float:
    """The largest difference of any output, relative to its largest value."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings)
    exe = cnnir.compile(model, **options)
    rng = np.random.default_rng(7)
    feeds = {name: rng.standard_normal(t.shape).astype(t.numpy) for name, t in exe.inputs.items()}
    wanted = session.run(exe.output_names, feeds)
    got = exe.run(feeds).values()
    exe.close()
    assert all(np.abs(w).max() > 0 and np.unique(w).size > w.size // 2 for w in wanted)
    return max(np.abs(y - w).max() / np.abs(w).max() for y, w in zip(got, wanted, strict=True))


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_architectures_agree_with_onnxruntime(name: str) -> None:
    model = with_random_weights(onnx.load(LIGHT / f"light_{name}.onnx"), seed=len(name))
    assert against_onnxruntime(model) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "tolerance"), [("exact", 1e-5), ("tf32", 5e-3)])
def test_an_architecture_agrees_as_emulated_cuda(precision: str, tolerance: float) -> None:
    needs_compiler()
    model = with_random_weights(onnx.load(LIGHT / "light_squeezenet.onnx"), seed=3)
    assert against_onnxruntime(model, target="cuda-emu", precision=precision) < tolerance


@pytest.mark.parametrize("features", ["avx2", "sse2"])
@pytest.mark.parametrize("threads", [1, 2])
def test_narrower_vectors_and_threads_agree_too(features: str, threads: int) -> None:
    try:
        CpuTarget.host(features)
    except cnnir.BackendError as error:
        pytest.skip(str(error))
    model = with_random_weights(onnx.load(LIGHT / "light_squeezenet.onnx"), seed=3)
    assert against_onnxruntime(model, features=features, threads=threads) < 1e-5


@pytest.mark.parametrize("target", ["reference", "cpu", "cuda-emu"])
@pytest.mark.parametrize("name", ["mnist", "super_resolution", "ultraface_rfb320"])
def test_trained_models_give_their_known_outputs(name: str, target: str) -> None:
    if not (TRAINED / f"{name}.onnx").exists():
        pytest.skip(f"{TRAINED} is not here")
    known = np.load(TRAINED / f"{name}.npz")
    if target == "cuda-emu":
        needs_compiler()
    exe = cnnir.compile(TRAINED / f"{name}.onnx", target=target)
    for k in range(sum(key.startswith("x") for key in known)):
        outputs = list(exe.run({exe.input_names[0]: known[f"x{k}"]}).values())
        for j, y in enumerate(outputs):
            wanted = known[f"y{k}_{j}"]
            assert y.shape == wanted.shape
            assert np.abs(y - wanted).max() <= 1e-5 * np.abs(wanted).max()
