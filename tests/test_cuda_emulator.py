"""The emulator itself: what threads do together, and the faults that it must name."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_harness import Emulated

from cnnir.backends.cuda.emulator import Emulator
from cnnir.backends.cuda.launch import Launch
from cnnir.errors import BackendError


def run(body: str, threads: int = 64, shared: int = 256, **how: bool) -> np.ndarray:
    """out[256] after a block has done the body; `t` is the thread, `shared` its block's memory."""
    text = (
        'extern "C" __global__ void k(int* error, unsigned char* scratch, float* out) {\n'
        f"  const int t = threadIdx.x;\n  CN_SHARED(shared);\n{body}\n}}"
    )
    launch = Launch((1, 1, 1), (threads, 1, 1), shared)
    out = np.arange(256, dtype=np.float32)
    Emulated({"k": text}, {"k": launch}, Emulator(None, **how)).launch("k", [0, 0, out.ctypes.data])
    return out


EVERY = [{"last_first": a, "early": b} for a in (False, True) for b in (False, True)]


@pytest.mark.parametrize("how", EVERY)
def test_threads_meet_at_barriers(how: dict[str, bool]):
    body = """float* s = (float*)shared;
  s[t] = out[t];
  __syncthreads();
  out[t] = s[63 - t];"""
    np.testing.assert_array_equal(run(body, **how)[:64], np.arange(64)[::-1])


def test_without_the_barrier_somebody_reads_poison():
    body = "float* s = (float*)shared; s[t] = out[t]; out[t] = s[63 - t];"
    assert all(np.isnan(run(body, **how)).any() for how in EVERY)


@pytest.mark.parametrize("how", EVERY)
def test_warps_add_up(how: dict[str, bool]):
    out = run("out[t] = cn_warp_add<float>(out[t]);", **how)
    np.testing.assert_array_equal(out[:64], np.repeat([31 * 16, 31 * 16 + 32 * 32], 32))


@pytest.mark.parametrize("how", EVERY)
def test_copies_have_landed_after_the_wait(how: dict[str, bool]):
    body = """cn_copy<4>(shared + 4 * t, out + 64 + t, t % 2 == 0);
  cn_end_group();
  cn_wait_groups<0>();
  out[t] = ((float*)shared)[t];"""
    np.testing.assert_array_equal(run(body, **how)[:64:2], np.arange(64, 128, 2))
    assert not run(body, **how)[1:64:2].any()


def test_late_copies_are_late_and_early_ones_early():
    body = "cn_copy<4>(shared + 4 * t, out + t, true); out[t] = ((float*)shared)[t];"
    assert np.isnan(run(body, early=False)[:64]).all()
    assert not np.isnan(run(body, early=True)).any()


FAULTS = {
    "threads wait for others": "if (t < 32) cn_warp_add<float>(1.0f); else if (t == 40) "
    "cn_warp_add<float>(1.0f); else __syncthreads();",
    "ends while its warp waits": "if (t % 2) cn_warp_add<float>(1.0f);",
    "different common steps": "if (t % 2) cn_exchange(1.0f, 1); else cn_exchange(1, 1);",
    "behind the end of shared memory": "shared[256 + t] = 0; __syncthreads();",
    "a misaligned copy": "cn_copy<16>(shared + 4 * t, out, true);",
    "a misaligned row": "unsigned r[4]; cn_load_matrices(r, shared + 4);",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named(fault: str):
    with pytest.raises(BackendError, match=rf"went wrong: block \(0, 0, 0\), thread .*{fault}"):
        run(FAULTS[fault])


def test_blocks_that_no_device_has():
    with pytest.raises(BackendError, match="fewer than 32 threads"):
        run("cn_warp_add<float>(1.0f);", threads=40)
    with pytest.raises(BackendError, match="more than 1024 threads"):
        run("__syncthreads();", threads=1025)
