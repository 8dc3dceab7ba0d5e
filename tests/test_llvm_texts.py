"""Kept texts of kernels: found again, never for another kernel, target, source or foreign op."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import cnnir
from cnnir.backends.llvm import emit, texts
from cnnir.backends.llvm.cache import ObjectCache
from cnnir.backends.llvm.image import PackedTexts, unpacked
from cnnir.backends.llvm.plan import plan
from cnnir.backends.llvm.target import CpuTarget
from cnnir.ops import Elementwise
from cnnir.pipeline import optimise

NET = """\
graph @net(%x: f32[1,{channels},9,7]) {{
  param @w : f32[21,{channels},3,3]
  %a = conv(%x, @w) {{padding=(1, 1, 1, 1)}} : f32[1,21,9,7]
  %b = softmax(%a) {{axis=1}} : f32[1,21,9,7]
  %y = leaky_relu(%b) {{alpha={alpha}}} : f32[1,21,9,7]
  return %y
}}"""


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels that are written, not found."""
    names: list[str] = []
    write = emit._emit_kernel

    def noted(kernel, target):
        code, text = write(kernel, target)
        names.append(code.name)
        return code, text

    monkeypatch.setattr(emit, "_emit_kernel", noted)
    return names


def compiled(cache: Path | bool, channels: int = 5, alpha: float = 0.1, **options):
    graph = cnnir.parse(NET.format(channels=channels, alpha=alpha), seed=1)
    return cnnir.compile(graph, cache=cache, **options), graph


def test_a_model_met_again_is_not_written_again(tmp_path: Path, written: list[str]) -> None:
    x = np.random.default_rng(0).standard_normal((1, 5, 9, 7)).astype(np.float32)
    first, graph = compiled(tmp_path)
    assert written
    written.clear()
    again, _ = compiled(tmp_path)
    assert not written
    assert again.plan.text() == first.plan.text()
    made, found = (exe._first.program.image for exe in (first, again))
    assert found.code == made.code and found.objects == made.objects
    np.testing.assert_array_equal(again(x), first(x))
    (want,) = cnnir.evaluate(graph, [x], dtype="f64")
    assert np.abs(again(x) - want).max() <= 1e-5 * np.abs(want).max()


@pytest.mark.parametrize(
    "change", [{"channels": 6}, {"alpha": 0.2}, {"features": "sse2"}], ids=["shape", "attr", "cpu"]
)
def test_other_kernels_are_written(tmp_path: Path, written: list[str], change) -> None:
    if "features" in change and not CpuTarget.host().x86:
        pytest.skip("an x86 level")
    compiled(tmp_path)
    written.clear()
    compiled(tmp_path, **change)
    assert written


def test_without_a_cache_everything_is_written(tmp_path: Path, written: list[str]) -> None:
    for _ in range(2):
        written.clear()
        compiled(False)
        assert written


def test_other_source_writes_again(
    tmp_path: Path, written: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled(tmp_path)
    for digest, found in (("another", False), ("another", True), ("", False)):
        written.clear()
        monkeypatch.setattr(texts, "source_digest", lambda digest=digest: digest)
        compiled(tmp_path)
        assert bool(written) is not found


def test_the_digest_sees_every_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = texts.source_digest.__wrapped__
    file = tmp_path / "deep" / "a.py"
    file.parent.mkdir()
    file.write_text("x = 1\n")
    monkeypatch.setattr(texts, "_roots", lambda: [tmp_path])
    before = digest()
    file.write_text("x = 2\n")
    changed = digest()
    (tmp_path / "b.py").write_text("")
    assert len({before, changed, digest()}) == 3
    monkeypatch.setattr(texts, "_roots", lambda: [tmp_path / "none"])
    assert digest() == ""


def test_ops_of_a_user_are_written_each_time(tmp_path: Path, written: list[str]) -> None:
    """Their source is not in the digest: the same name may mean something else tomorrow."""
    text = "graph @g(%x: f32[5]) {\n  %y = scaled(%x) : f32[5]\n  return %y\n}"
    results = []
    for factor in (2.0, 3.0):
        declare_scaled(factor)
        try:
            exe = cnnir.compile(cnnir.parse(text), cache=tmp_path)
            results.append(exe(np.ones(5, np.float32))[0])
        finally:
            del cnnir.OPS["scaled"]
    assert results == [2.0, 3.0] and len(written) == 2


def declare_scaled(factor: float) -> None:
    class Scaled(Elementwise):
        """y = factor x."""

        name = "scaled"

        def scalar(m, x):
            return x * factor


def test_a_damaged_text_is_written_again(tmp_path: Path, written: list[str]) -> None:
    compiled(tmp_path)
    for path in tmp_path.glob("*.cnnirobject"):
        path.write_bytes(path.read_bytes()[:-40] + bytes(40))
    written.clear()
    exe, _ = compiled(tmp_path)
    assert written and any("damaged" in note for note in exe.plan.notes)


def test_targets_of_other_widths_have_texts_of_their_own(tmp_path: Path) -> None:
    cache, target = ObjectCache(tmp_path), CpuTarget.host()
    _, graph = compiled(tmp_path)
    optimise(graph)
    kernel = plan(graph, target, threads=2, exact=False).calls[0].kernel
    assert texts.Texts(cache, target).get(kernel)
    assert texts.Texts(cache, replace(target, lanes=2)).get(kernel) is None


@pytest.mark.parametrize("count", [0, 1, 50])
def test_texts_are_packed_as_they_come_and_found_by_name(count: int) -> None:
    given = {f"kernel_{n}": f"define void @k{n}() {{\n  ; \u03b1\n\n}}\n" * n for n in range(count)}
    packed = PackedTexts()
    for name, text in given.items():
        packed.add(name, text)
    stored = packed.finish()
    assert unpacked(stored) == given
    assert count < 50 or len(stored) < sum(map(len, given.values())) / 20
