"""The short way into small models: what it takes, what it declines, and closing it in use."""

import mmap
import os
import signal
import threading

import numpy as np
import pytest

import cnnir
from cnnir.backends.llvm import load
from cnnir.backends.llvm.entry import HOLD
from cnnir.backends.llvm.load import seconds
from cnnir.compile import Executable

NET = """\
graph @net(%x: f32[2,3,9,7]) {
  param @w : f32[5,3,3,3]
  %0 = conv(%x, @w) {padding=(1, 1, 1, 1)} : f32[2,5,9,7]
  %1 = relu(%0) : f32[2,5,9,7]
  %y = reduce_mean(%1) {axes=(2, 3), keepdims=False} : f32[2,5]
  return %y
}"""
SEVERAL = """\
graph @several(%a: f32[3], %s: f64[], %k: i64[2]) {
  %picked = gather(%a, %k) {axis=0} : f32[2]
  %t = neg(%s) : f64[]
  %b = neg(%a) : f32[3]
  return %picked, %t, %b
}"""
LARGE = """\
graph @large(%x: f32[20000]) {
  %y = reduce_sum(%x) {axes=(0,), keepdims=True} : f32[1]
  return %y
}"""


@pytest.fixture(autouse=True)
def on_the_callers_thread(monkeypatch) -> None:
    """As short runs are, where other tests would have them shared."""
    monkeypatch.setattr(load, "SHARING_COST", 1.0)


def net() -> cnnir.Graph:
    return with_weights(NET)


def with_weights(text: str) -> cnnir.Graph:
    graph = cnnir.parse(text)
    graph.params["w"] = np.random.default_rng(1).standard_normal((5, 3, 3, 3)).astype(np.float32)
    return graph


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((2, 3, 9, 7)).astype(np.float32)


def entered(exe, *arrays):
    """What the short way gives."""
    exe(*arrays)
    return exe._enter(*arrays)


def at_page_end(array: np.ndarray) -> np.ndarray:
    """The same array, with nothing of its page behind it, and no page behind that."""
    room = mmap.mmap(-1, -(-array.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE)
    end = np.frombuffer(room, np.uint8)[-array.nbytes :]
    moved = end.view(array.dtype).reshape(array.shape)
    moved[...] = array
    return moved


@pytest.mark.parametrize("threads", [1, 2])
def test_results_are_those_of_the_meaning_and_belong_to_the_caller(threads: int) -> None:
    graph = net()
    exe = cnnir.compile(graph, threads=threads)
    images = [image(seed) for seed in range(4)]
    results = [entered(exe, x) for x in images]
    for number, (x, y) in enumerate(zip(images, results, strict=True)):
        np.testing.assert_allclose(y, cnnir.evaluate(graph, [x], dtype="f64")[0], atol=1e-5)
        assert type(y) is np.ndarray and y.flags.writeable
        assert not any(np.shares_memory(y, other) for other in results[:number])


def test_several_inputs_and_outputs() -> None:
    exe = cnnir.compile(cnnir.parse(SEVERAL))
    a, s = np.array([1, 2, 3], np.float32), np.array(4.0)
    picked, t, b = entered(exe, a, s, np.array([2, 0]))
    np.testing.assert_array_equal(picked, [3, 1])
    np.testing.assert_array_equal(b, -a)
    assert t.shape == () and t == -4


@pytest.mark.parametrize(
    "bad",
    [
        image()[:1],
        image()[..., None],
        image().reshape(2, 3, 63),
        image().astype(np.float64),
        image().astype(">f4"),
        np.asfortranarray(image()),
        np.repeat(image(), 2, axis=-1)[..., ::2],
        np.frombuffer(b"z" + image().tobytes(), np.uint8)[1:].view(np.float32).reshape(2, 3, 9, 7),
        image().view(type("Sub", (np.ndarray,), {})),
        image().tolist(),
        None,
    ],
    ids="batch rank joined f64 swapped fortran strided misaligned subclass list none".split(),
)
def test_what_is_not_as_it_should_be_is_declined(bad) -> None:
    exe = cnnir.compile(net())
    assert entered(exe, image()) is not None
    assert exe._enter(bad) is None


def test_wrong_numbers_of_inputs_are_declined() -> None:
    exe = cnnir.compile(net())
    assert entered(exe, image()) is not None
    assert exe._enter() is None and exe._enter(image(), image()) is None
    with pytest.raises(cnnir.InputError, match="missing inputs"):
        exe()


def test_bad_data_is_declined_then_told_and_leaves_no_trace() -> None:
    exe = cnnir.compile(cnnir.parse(SEVERAL))
    a, s, good = np.ones(3, np.float32), np.array(0.0), np.array([0, 1])
    assert entered(exe, a, s, good) is not None
    for _ in range(2):
        assert exe._enter(a, s, np.array([0, 3])) is None
        with pytest.raises(cnnir.RuntimeError, match="out of range in gather"):
            exe(a, s, np.array([0, 3]))
        assert exe._enter(a, s, good) is not None


def test_arrays_at_the_end_of_readable_memory() -> None:
    """Kernels may read behind an array: a small one is copied, a large one goes the long way."""
    exe = cnnir.compile(net())
    np.testing.assert_array_equal(entered(exe, at_page_end(image())), exe(image()))
    exe, x = cnnir.compile(cnnir.parse(LARGE), threads=1), np.ones(20000, np.float32)
    assert entered(exe, np.concatenate([x, x])[:20000]) == 20000
    assert exe._enter(at_page_end(x)) is None and exe(at_page_end(x)) == 20000


def test_a_busy_or_closed_entry_is_declined() -> None:
    exe = cnnir.compile(net())
    x = image()
    assert entered(exe, x) is not None
    enter, table = exe._enter, exe._enter.__self__
    table[0] = 1
    assert enter(x) is None
    np.testing.assert_array_equal(exe(x), exe(x))
    table[0] = 0
    assert enter(x) is not None
    exe.close()
    assert enter(x) is None
    with pytest.raises(cnnir.BackendError, match="closed"):
        exe(x)


def test_an_entry_may_outlive_its_program() -> None:
    exe = cnnir.compile(net())
    assert entered(exe, image()) is not None
    enter = exe._enter
    del exe
    assert enter(image()) is None


def long_run() -> tuple[Executable, np.ndarray]:
    """A program whose runs take longer than the GIL is held, and an input."""
    exe = cnnir.compile(with_weights(NET.replace("[2,", "[800,")), threads=1)
    assert seconds(exe.plan.steps) > HOLD
    x = np.random.default_rng(3).standard_normal((800, 3, 9, 7)).astype(np.float32)
    return exe, x


def test_a_long_run_lets_other_threads_come() -> None:
    """They find the entry busy, and the long way gives the same bits."""
    exe, x = long_run()
    enter = exe._first.enter
    expected = exe._first.program.run([x])[0]
    busy = threading.Event()
    wrong = []

    def call() -> None:
        for _ in range(100_000):
            found = enter(x)
            if found is None:
                busy.set()
            if not np.array_equal(exe(x) if found is None else found, expected):
                wrong.append(found)
            if busy.is_set():
                return

    callers = [threading.Thread(target=call) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert busy.is_set() and not wrong


def test_a_fork_finds_nobody_inside() -> None:
    exe, x = long_run()
    done = threading.Event()

    def call() -> None:
        while not done.is_set():
            exe(x)

    caller = threading.Thread(target=call)
    caller.start()
    codes = []
    for _ in range(10):
        child = os.fork()
        if not child:
            signal.alarm(20)  # ends a child that waits for ever
            ok = exe._first.enter(x) is not None
            exe._first.program._unload()
            os._exit(0 if ok else 1)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    done.set()
    caller.join()
    assert codes == [0] * 10


def test_states_are_not_entered() -> None:
    """What is carried would be written into the caller's array."""
    text = """\
graph @count(%n: f32[3], %x: f32[3]) {
  %m = add(%n, %x) : f32[3]
  return %m
}"""
    graph = cnnir.parse(text)
    graph.carry(0, 0)
    exe = cnnir.compile(graph)
    n, x = np.zeros(3, np.float32), np.ones(3, np.float32)
    assert exe._first.enter is None
    np.testing.assert_array_equal(exe(n, x), x)
    assert not n.any()


def test_without_it_everything_works(monkeypatch) -> None:
    expected = cnnir.compile(net())(image())
    monkeypatch.setattr(load, "possible", lambda: False)
    exe = cnnir.compile(net())
    assert exe._first.enter is None
    np.testing.assert_array_equal(exe(image()), expected)


def test_close_while_others_call() -> None:
    """Code that is unloaded under a caller's feet would end the process."""
    for seed in range(10):
        exe, x = cnnir.compile(net()), image(seed)
        expected, wrong, refused = exe(x), [], []
        started = threading.Barrier(4)

        def call(exe=exe, x=x, y=expected, started=started, wrong=wrong, refused=refused) -> None:
            started.wait()
            try:
                while np.array_equal(exe(x), y):
                    pass
                wrong.append(True)
            except cnnir.BackendError as error:
                refused.append(str(error))

        workers = [threading.Thread(target=call) for _ in range(3)]
        for worker in workers:
            worker.start()
        started.wait()
        exe.close()
        for worker in workers:
            worker.join(30)
        assert not wrong and refused == ["the program has been closed"] * 3
