"""Targets, compilation in process, and the object cache."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import threading
import time
from pathlib import Path

import pytest

import cnnir.backends.llvm.engine as engine_file
from cnnir.backends.llvm.cache import CacheWarning, ObjectCache
from cnnir.backends.llvm.engine import Compilation, Engine, Options, build, code_size, render
from cnnir.backends.llvm.target import CpuTarget
from cnnir.errors import BackendError

TARGET = CpuTarget.host("")
X86 = TARGET.x86
LINUX = sys.platform == "linux"

ADD = """
define i64 @add{0}(i64 %x) {{
  %y = add i64 %x, {0}
  ret i64 %y
}}
"""


# ---- targets


@pytest.mark.skipif(not X86, reason="levels are names of x86")
def test_levels_narrow_the_host_and_never_widen_it() -> None:
    base = CpuTarget.host("sse2")
    assert base.lanes == 4 and not base.fma and not base.f16c and not base.has("avx")
    for name in ("avx2", "avx512"):
        needed = {"avx2": "avx2", "avx512": "avx512vl"}[name]
        if TARGET.has(needed):
            target = CpuTarget.host(name)
            assert target.lanes == {"avx2": 8, "avx512": 16}[name] and target.fma
            assert target.has("avx512f") == (name == "avx512")
        else:
            with pytest.raises(BackendError, match="this machine has no"):
                CpuTarget.host(name)


def test_raw_features_and_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    known = [flag[1:] for flag in TARGET.features.split(",")]
    off = [name for name in known if not TARGET.has(name)]
    with pytest.raises(BackendError, match="neither one of"):
        CpuTarget.host("quick")
    if off:
        with pytest.raises(BackendError, match=f"this machine has no {off[0]}"):
            CpuTarget.host("+" + off[0])
    on = next(name for name in known if TARGET.has(name))
    assert not CpuTarget.host("-" + on).has(on)
    monkeypatch.setenv("CNNIR_CPU_FEATURES", "-" + on)
    assert not CpuTarget.host().has(on) and CpuTarget.host("").has(on)


def test_sizes_and_cores_are_sane() -> None:
    assert 1 <= TARGET.cores <= (os.cpu_count() or 1)
    assert 4096 <= TARGET.l1 <= TARGET.l2 <= TARGET.l3
    assert TARGET.lanes in (4, 8, 16)


@pytest.mark.skipif(not (X86 and TARGET.has("avx2")), reason="needs AVX2")
def test_narrow_targets_use_no_wide_registers() -> None:
    text = """
    define void @f(ptr %p) {
      %v = load <16 x float>, ptr %p
      %w = fadd <16 x float> %v, %v
      store <16 x float> %w, ptr %p
      ret void
    }"""
    assert b"zmm" not in (avx2 := render(text, CpuTarget.host("avx2"), "assembly"))
    assert b"ymm" in avx2 and b"ymm" not in render(text, CpuTarget.host("sse2"), "assembly")


# ---- the engine


def call(engine: Engine, name: str, x: int) -> int:
    kind = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)
    return kind(engine.address(name))(x)


def test_modules_call_each_other_and_close() -> None:
    caller = """
    declare i64 @add5(i64)
    define i64 @f(i64 %x) {
      %y = call i64 @add5(i64 %x)
      ret i64 %y
    }"""
    engine = build([caller, ADD.format(5)], ["f"], TARGET)
    assert call(engine, "f", 37) == 42
    assert engine.report.modules == 2 and 0 < engine.report.code_bytes < 1000
    with pytest.raises(BackendError, match="exports no function g"):
        engine.address("g")
    engine.close()
    engine.close()
    with pytest.raises(BackendError, match="closed"):
        engine.address("f")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("define void @f() { ret i32 0 }", "not valid LLVM IR"),
        ("rubbish", "not valid LLVM IR"),
        ("declare void @g()\ndefine void @f() {\n call void @g()\n ret void\n}", "calls g, which"),
        ('define void @f() {\n call void asm "nop", ""()\n ret void\n}', "inline assembly"),
        (
            "declare float @llvm.exp.f32(float)\ndefine float @f(float %x) {\n"
            " %y = call float @llvm.exp.f32(float %x)\n ret float %y\n}",
            "llvm.exp.f32 is not on the list",
        ),
        ("@g = external global i32\ndefine ptr @f() {\n ret ptr @g\n}", "cannot be loaded"),
        ("define void @other() {\n ret void\n}", "cannot be loaded"),
    ],
)
def test_bad_code_is_an_error_and_never_a_crash(text: str, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        build([text], ["f"], TARGET)


@pytest.mark.skipif(not X86, reason="an x86 intrinsic")
def test_intrinsics_need_their_features() -> None:
    kind = "<16 x i32>"
    name = "llvm.x86.avx512.vpdpbusd.512"
    text = f"declare {kind} @{name}({kind}, {kind}, {kind})"
    with pytest.raises(BackendError, match="needs avx512vnni, which the target lacks"):
        render(text, CpuTarget.host("sse2"), "object")


def test_render_gives_text_assembly_and_object() -> None:
    assert b"define" in render(ADD.format(1), TARGET, "ir")
    assert b"add1" in render(ADD.format(1), TARGET, "assembly")
    binary = render(ADD.format(1), TARGET, "object")
    assert 0 < code_size(binary) < len(binary)
    with pytest.raises(BackendError, match="no form 'c'"):
        render(ADD.format(1), TARGET, "c")


def test_damaged_objects_are_refused() -> None:
    binary = render(ADD.format(1), TARGET, "object")
    for damaged in (b"", b"rubbish" * 50, binary[:100], binary[: len(binary) // 2]):
        with pytest.raises(BackendError, match="cannot be loaded"):
            Engine([damaged], ["add1"], TARGET)


def test_parallel_jobs_give_the_same_objects(tmp_path: Path) -> None:
    texts = [ADD.format(n) for n in range(12)]
    serial = [render(text, TARGET, "object") for text in texts]
    cache = ObjectCache(tmp_path)
    engine = build(texts, [f"add{n}" for n in range(12)], TARGET, cache, jobs=4)
    assert all(call(engine, f"add{n}", 30) == 30 + n for n in range(12))
    stored = [cache.get(cache.key(text, TARGET, Options())) for text in texts]
    assert stored == serial


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_the_caller_compiles_what_still_waits_and_no_more_run_than_allowed(
    monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    wanted = [render(ADD.format(n), TARGET, "object") for n in range(12)]
    running, most, where = set[str](), [0], set[str]()
    compiled = engine_file._compile

    def noted(*arguments: object) -> bytes:
        name = threading.current_thread().name
        running.add(name)
        most[0] = max(most[0], len(running))
        where.add(name)
        time.sleep(0.01)
        made = compiled(*arguments)
        running.discard(name)
        return made

    monkeypatch.setattr(engine_file, "_compile", noted)
    with Compilation(TARGET, jobs=jobs) as compilation:
        for n in range(12):
            compilation.add(ADD.format(n))
        objects, report = compilation.objects()
    assert objects == wanted
    assert report.modules == 12
    assert most[0] <= jobs and len(where) <= jobs
    assert (threading.current_thread().name in where) == (jobs > 1)


def test_who_interrupts_the_caller_does_not_wait_for_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = []

    def interrupted(*arguments: object) -> bytes:
        begun.append(threading.current_thread())
        if begun[-1] is threading.main_thread():
            raise KeyboardInterrupt
        time.sleep(0.02)
        return b""

    monkeypatch.setattr(engine_file, "_compile", interrupted)
    with pytest.raises(KeyboardInterrupt), Compilation(TARGET, jobs=2) as compilation:
        for n in range(50):
            compilation.add(ADD.format(n))
        compilation.objects()
    assert len(begun) < 10


@pytest.mark.parametrize("jobs", [1, 4])
def test_of_several_wrong_modules_the_first_is_told(jobs: int) -> None:
    bad = (
        "define void @{0}() {{\n  call void @nobody{0}()\n  ret void\n}}\ndeclare void @nobody{0}()"
    )
    texts = [ADD.format(0), *(bad.format(name) for name in "abcd"), ADD.format(1)]
    for _ in range(5):
        with Compilation(TARGET, jobs=jobs) as compilation:
            for text in texts:
                compilation.add(text)
            with pytest.raises(BackendError, match="calls nobodya, which nothing defines"):
                compilation.objects()


@pytest.mark.skipif(not LINUX, reason="reads /proc")
def test_memory_is_flat_over_300_compiles() -> None:
    def once(n: int) -> tuple[int, int]:
        engine = build([ADD.format(n)], [f"add{n}"], TARGET)
        assert call(engine, f"add{n}", 1) == n + 1
        engine.close()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize(), len(Path("/proc/self/maps").read_text().splitlines())

    for n in range(60):
        start = once(n)
    for n in range(300):
        end = once(n)
    assert end[0] - start[0] < 4 << 20
    assert end[1] - start[1] < 10


# ---- the cache


def cached_build(cache: ObjectCache | None, value: int = 1) -> Engine:
    engine = build([ADD.format(value)], [f"add{value}"], TARGET, cache)
    assert call(engine, f"add{value}", 10) == 10 + value
    return engine


def test_cache_hits(tmp_path: Path) -> None:
    cache = ObjectCache.default(tmp_path / "c")
    assert cache and (tmp_path / "c").stat().st_mode & 0o777 == 0o700
    assert cached_build(cache).report.cached == 0
    assert cached_build(cache).report.cached == 1
    assert cached_build(cache, 2).report.cached == 0
    assert not list(cache.directory.glob("tmp-*")) and cache.notes() == []


def test_cache_keys_tell_targets_and_options_apart(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path)
    on = next(flag[1:] for flag in TARGET.features.split(",") if flag[0] == "+")
    keys = {
        cache.key(text, target, options)
        for text in ("a", "b")
        for target in (TARGET, CpuTarget.host("-" + on))
        for options in (Options(), Options(level=2))
    }
    assert len(keys) == 8


def test_damaged_and_swapped_entries_are_compiled_again(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path)
    cached_build(cache)
    cached_build(cache, 2)
    (one, two) = (
        tmp_path / (cache.key(ADD.format(n), TARGET, Options()) + ".cnnirobject") for n in (1, 2)
    )
    good = one.read_bytes()
    spoiled = [good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :]
               for position in range(0, len(good), 37)]  # fmt: skip
    for content in [*spoiled, b"", good[:40], good[:-1], good + b"x", two.read_bytes()]:
        one.write_bytes(content)
        fresh = ObjectCache(tmp_path)
        assert fresh.get(one.stem) is None and "damaged" in fresh.notes()[0]
    assert cached_build(ObjectCache(tmp_path)).report.notes
    assert one.read_bytes() == good


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
def test_what_others_may_write_is_not_used(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path)
    cached_build(cache)
    (entry,) = tmp_path.glob("*.cnnirobject")
    entry.chmod(0o666)
    assert cache.get(entry.stem) is None and "writable by others" in cache.notes()[0]
    entry.unlink()
    os.symlink("/etc/hostname", entry)
    assert ObjectCache(tmp_path).get(entry.stem) is None
    (shared := tmp_path / "shared").mkdir()
    shared.chmod(0o777)
    with pytest.warns(CacheWarning, match="writable by nobody else"):
        assert ObjectCache.default(shared) is None
    os.symlink(tmp_path, tmp_path / "link")
    with pytest.warns(CacheWarning, match="not a directory"):
        assert ObjectCache.default(tmp_path / "link") is None
    with pytest.warns(CacheWarning, match="anybody may replace it"):
        assert ObjectCache.default(shared / "inner") is None


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for off in ("off", "OFF", "0"):
        monkeypatch.setenv("CNNIR_CACHE", off)
        assert ObjectCache.default() is None and ObjectCache.default(False) is None
    monkeypatch.setenv("CNNIR_CACHE", str(tmp_path / "named"))
    found = ObjectCache.default()
    assert found and found.directory == tmp_path / "named"
    monkeypatch.delenv("CNNIR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = ObjectCache.default(True)
    assert found and found.directory == tmp_path / "cnnir"
    (tmp_path / "file").write_text("")
    with pytest.warns(CacheWarning, match="no object cache"):
        assert ObjectCache.default(tmp_path / "file") is None


def test_the_oldest_entries_are_evicted(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, limit=5000)
    keys = [f"{n:064x}" for n in range(6)]
    for n, key in enumerate(keys):
        cache.put(key, bytes([n]) * 1500)
        os.utime(cache.directory / (key + ".cnnirobject"), ns=(n, n))
        assert sum(f.stat().st_size for f in tmp_path.iterdir()) <= 5000
    assert [cache.get(key) is not None for key in keys] == [False] * 3 + [True] * 3


def test_a_failing_disk_does_not_stop_compilation(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path / "gone")
    engine = cached_build(cache)
    assert "cannot write" in engine.report.notes[0]
