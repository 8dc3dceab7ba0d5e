"""How data gets into native code and out: small and large arrays, fresh results, close."""

import threading

import numpy as np
import pytest

import cnnir

# The small operands and results pass through the frame, the large ones are used where they are.
MIXED = """\
graph @mixed(%small: f32[3], %large: f32[64,3,40], %k: i64[2]) {
  %s = reshape(%small) {shape=(1, 3, 1)} : f32[1,3,1]
  %big = mul(%large, %s) : f32[64,3,40]
  %row = reduce_sum(%large) {axes=(0, 2), keepdims=False} : f32[3]
  %picked = gather(%big, %k) {axis=0} : f32[2,3,40]
  return %row, %big, %picked
}"""


def mixed(seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    small, large = rng.standard_normal(3), rng.standard_normal((64, 3, 40))
    return [small.astype(np.float32), large.astype(np.float32), np.array([5, -1])]


def wanted(inputs: list[np.ndarray]) -> list[np.ndarray]:
    small, large, k = inputs
    big = large * small[:, None]
    return [large.sum((0, 2), np.float64), big, big[k]]


def agree(results, inputs) -> bool:
    pairs = zip(results, wanted(inputs), strict=True)
    return all(np.allclose(got, want, rtol=1e-4, atol=1e-4) for got, want in pairs)


@pytest.mark.parametrize("threads", [1, 2])
def test_small_and_large_arrays_side_by_side(threads: int) -> None:
    exe = cnnir.compile(cnnir.parse(MIXED), threads=threads)
    calls = [mixed(seed) for seed in range(4)]
    results = [exe(*inputs) for inputs in calls]
    # All calls are over before anything is looked at: results must not share memory.
    assert all(agree(got, inputs) for got, inputs in zip(results, calls, strict=True))
    arrays = [a for got in results for a in got]
    for i, a in enumerate(arrays):
        assert a.flags.writeable and not any(np.shares_memory(a, b) for b in arrays[:i])


@pytest.mark.parametrize(
    "change",
    [
        lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
        lambda a: a.astype(a.dtype.newbyteorder(">")),
        lambda a: np.asfortranarray(a),
        lambda a: a.view(type("Sub", (np.ndarray,), {})),
        lambda a: np.frombuffer(b"z" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape),
    ],
    ids=["strided", "big-endian", "fortran", "subclass", "misaligned"],
)
def test_unusual_arrays_of_both_sizes(change) -> None:
    exe = cnnir.compile(cnnir.parse(MIXED))
    inputs = mixed()
    for got, want in zip(exe(*map(change, inputs)), exe(*inputs), strict=True):
        assert type(got) is np.ndarray
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("position", "bad", "words"),
    [
        (0, np.zeros(3), "'small': dtype float64, wanted float32"),
        (0, np.zeros(4, np.float32), r"'small': shape \(4,\), wanted \(3,\)"),
        (1, np.zeros((64, 3, 40), np.int32), "'large': dtype int32"),
        (2, np.zeros(2, np.int32), "'k': dtype int32, wanted int64"),
        (2, [1.5, 2], "'k': dtype float64"),
    ],
)
def test_a_good_call_before_does_not_let_a_bad_one_through(position, bad, words: str) -> None:
    exe = cnnir.compile(cnnir.parse(MIXED))
    good = mixed()
    assert agree(exe(*good), good)
    inputs = [*good[:position], bad, *good[position + 1 :]]
    with pytest.raises(cnnir.InputError, match=words):
        exe(*inputs)
    with pytest.raises(cnnir.InputError, match="missing inputs"):
        exe(*good[:2])
    assert agree(exe(*good), good)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_failed_call_leaves_no_trace(threads: int) -> None:
    exe = cnnir.compile(cnnir.parse(MIXED), threads=threads)
    good = mixed()
    for _ in range(3):
        with pytest.raises(cnnir.RuntimeError, match="indices out of range in gather"):
            exe(*good[:2], np.array([0, 64]))
        assert agree(exe(*good), good)


def test_empty_arrays() -> None:
    text = "graph @e(%x: f32[0,3]) {\n  %y = neg(%x) : f32[0,3]\n  return %y\n}"
    assert cnnir.compile(cnnir.parse(text))(np.zeros((0, 3), np.float32)).shape == (0, 3)


def test_one_thread_gives_the_bits_of_several() -> None:
    inputs = mixed()
    alone, shared = (cnnir.compile(cnnir.parse(MIXED), threads=n)(*inputs) for n in (1, 2))
    for a, b in zip(alone, shared, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("threads", [1, 2])
def test_close_waits_for_callers_and_refuses_new_ones(threads: int) -> None:
    """Code that is unloaded under a caller's feet would end the process."""
    for seed in range(5):
        exe = cnnir.compile(cnnir.parse(MIXED), threads=threads)
        inputs = mixed(seed)
        started, wrong, refused = threading.Barrier(4), [], []

        def call(exe=exe, inputs=inputs, started=started, wrong=wrong, refused=refused) -> None:
            started.wait()
            try:
                while agree(exe(*inputs), inputs):
                    pass
                wrong.append(True)
            except cnnir.BackendError as error:
                refused.append(str(error))

        workers = [threading.Thread(target=call) for _ in range(3)]
        for worker in workers:
            worker.start()
        started.wait()
        exe(*inputs)
        exe.close()
        exe.close()
        for worker in workers:
            worker.join(30)
        assert not wrong and refused == ["the program has been closed"] * 3
