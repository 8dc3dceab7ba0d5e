"""Batches, channels and filters of which there are none: optimised and compiled as any others."""

from __future__ import annotations

import numpy as np
import pytest

import cnnir

LAYERS = """\
graph @g(%x: f32[{n},{c},5,5]) {{
  param @w : f32[{o},{c},3,3]
  param @b : f32[{o}]
  param @v : f32[6,{o},1,1]
  param @k : f32[6,{o}]
  param @l : f32[{o},3]
  %a = conv(%x, @w, @b) {{padding=(1, 1, 1, 1)}} : f32[{n},{o},5,5]
  %r = relu(%a) : f32[{n},{o},5,5]
  %c = conv(%r, @v) : f32[{n},6,5,5]
  %d = conv(%a, @v) : f32[{n},6,5,5]
  %e = add(%c, %d) : f32[{n},6,5,5]
  %p = avg_pool(%e) {{kernel=(2, 2)}} : f32[{n},6,4,4]
  %m = reduce_mean(%p) {{axes=(2, 3), keepdims=True}} : f32[{n},6,1,1]
  %f = reshape(%m) {{shape=({n}, 6)}} : f32[{n},6]
  %y = matmul(%f, @k) : f32[{n},{o}]
  %z = matmul(%y, @l) : f32[{n},3]
  return %z, %e
}}"""


@pytest.mark.parametrize("target", ["reference", "cpu"])
@pytest.mark.parametrize("filters", [0, 4])
@pytest.mark.parametrize("channels", [0, 3])
@pytest.mark.parametrize("images", [0, 2])
def test_layers_of_nothing(images: int, channels: int, filters: int, target: str) -> None:
    graph = cnnir.parse(LAYERS.format(n=images, c=channels, o=filters), seed=1)
    x = np.random.default_rng(2).standard_normal((images, channels, 5, 5)).astype(np.float32)
    for y, want in zip(
        cnnir.compile(graph, target)(x), cnnir.evaluate(graph, {"x": x}, "f64"), strict=True
    ):
        np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)
