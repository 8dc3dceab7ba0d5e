"""What is too large is refused before memory is taken, with the buffer's name."""

import pytest

import cnnir


def test_a_graph_larger_than_the_machine_is_refused() -> None:
    graph = cnnir.parse(
        "graph @g(%x: f32[1048576,1]) {\n"
        "  %big = expand(%x) {shape=(1048576, 16777216)} : f32[1048576,16777216]\n"
        "  %y = reduce_sum(%big) {axes=(0, 1)} : f32[1,1]\n"
        "  return %y\n}"
    )
    with pytest.raises(cnnir.LimitError, match=r"the largest buffer is 'big': f32\[1048576,167"):
        cnnir.compile(graph, passes="none")
