"""Samples of the ops whose results are as long as the data says."""

import numpy as np
from samples import Sample, add

_RNG = np.random.default_rng(11)


def _boxes(images: int, count: int) -> np.ndarray:
    corners = _RNG.uniform(0, 1, (images, count, 2, 2)) + _RNG.uniform(0, 3, (images, count, 1, 2))
    return corners.reshape(images, count, 4).astype(np.float32)


def _scores(images: int, classes: int, count: int) -> np.ndarray:
    # few different numbers, so that there are ties
    return (_RNG.integers(0, 9, (images, classes, count)) / 9).astype(np.float32)


for _images, _classes, _count in ((1, 1, 1), (1, 1, 7), (2, 3, 17), (1, 2, 31), (1, 1, 0)):
    for _attrs in (
        {"max_per_class": 3, "iou_threshold": 0.3},
        {"max_per_class": 50, "iou_threshold": 0.0, "score_threshold": 0.4},
        {"max_per_class": 5, "iou_threshold": 0.5, "center_point": True},
        {"max_per_class": 0},
    ):
        add("nms", Sample((_boxes(_images, _count), _scores(_images, _classes, _count)), _attrs))

add("nonzero", Sample((np.array([[1, 0, 3], [0, 0, -7]]),), {}))
add("nonzero", Sample((np.array([0.0, -0.0, np.nan, 2.5], np.float32),), {}))
add("nonzero", Sample((_RNG.integers(0, 2, (3, 1, 7)).astype(bool),), {}))
add("nonzero", Sample((np.zeros((0, 5), np.uint8),), {}))
