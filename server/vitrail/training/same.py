"""Whether two photos are one picture: re-encoded, scaled, cropped, turned a little, brighter, grey, or mirrored.

One is laid over the other, as it is, mirrored, or as the points that both have say (SIFT and RANSAC: Lowe 2004), and
where they overlap their details are correlated. Photos of two things before one background share points, but not the
rest; nor do a photo and itself with words across it.
"""

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 192
"""Pixels of the short side; more find no more."""
SAME = 0.9
"""30 clothing photos, edited ten ways, agreed with themselves by 0.98 and more, but for one that was turned (0.80);
with others by 0.79 at most."""
POINTS, LEAST_CONTRAST = 400, 0.02
"""How many points a photo has at most; half of the usual contrast will do, since clothes have few."""
LEAST_POINTS = 6
RATIO = 0.75
"""How much nearer than the second nearest a point must be (Lowe's test)."""
LEAST_SHARE = 0.4
"""Of the smaller of the two photos, so much must overlap."""
ENLARGED = 0.1, 10.0
"""What becomes of an area where one is laid over the other, at least and at most."""
SHAPES = 0.04
"""Photos whose ratios of width to height differ by less may be the whole picture both."""

Grey = NDArray[np.uint8]


class Look(NamedTuple):
    """A photo, as it is compared."""

    grey: Grey
    """[h, w]"""
    places: NDArray[np.float32]
    """[n, 2], of its points"""
    points: NDArray[np.float32]
    """[n, 128]"""


def look(image: Image.Image) -> Look:
    """See a photo as `agreement` needs it; 60 KB, and 200 for its points."""
    small = image.convert("L")
    factor = SIDE / min(small.size)
    if factor < 1:
        small = small.resize((round(small.width * factor), round(small.height * factor)), Image.Resampling.BILINEAR)
    grey = np.array(small)
    found, points = cv2.SIFT.create(nfeatures=POINTS, contrastThreshold=LEAST_CONTRAST).detectAndCompute(grey, None)
    places = np.array([point.pt for point in found], np.float32).reshape(-1, 2)
    return Look(grey, places, np.array([] if points is None else points, np.float32).reshape(-1, 128))


def agreement(one: Look, other: Look) -> float:
    """How well the details of two photos agree where they overlap, at most 1."""
    both = one, _mirrored(one)
    best = max(_whole(each.grey, other.grey) for each in both)
    return best if best >= SAME else max(best, *(_partly(each, other) for each in both))


def _mirrored(one: Look) -> Look:
    """A photo from left to right. What describes a point are 4 × 4 histograms of 8 directions each."""
    places = np.array([one.grey.shape[1] - 1, 0], np.float32) + one.places * np.array([-1, 1], np.float32)
    points = one.points.reshape(-1, 4, 4, 8)[:, ::-1, :, [0, 7, 6, 5, 4, 3, 2, 1]].reshape(-1, 128)
    return Look(np.ascontiguousarray(one.grey[:, ::-1]), places, points)


def _partly(one: Look, other: Look) -> float:
    """How well they agree if the points that both have are laid over each other."""
    if min(len(one.points), len(other.points)) < LEAST_POINTS:
        return 0.0
    pairs = cv2.BFMatcher(cv2.NORM_L2).knnMatch(one.points, other.points, k=2)
    good = [first for first, second in pairs if first.distance < RATIO * second.distance]
    if len(good) < LEAST_POINTS:
        return 0.0
    placed, inliers = cv2.estimateAffinePartial2D(
        one.places[[match.queryIdx for match in good]],
        other.places[[match.trainIdx for match in good]],
        method=cv2.RANSAC,
        ransacReprojThreshold=3.0,
    )
    if placed is None or inliers.sum() < LEAST_POINTS:
        return 0.0
    return _overlap(one.grey, other.grey, placed)


def _whole(one: Grey, other: Grey) -> float:
    (height, width), (rows, columns) = one.shape, other.shape
    if abs(height * columns / (width * rows) - 1) > SHAPES:
        return 0.0
    scaled = one if one.shape == other.shape else cv2.resize(one, (columns, rows), interpolation=cv2.INTER_AREA)
    return _correlation(_details(scaled), _details(other))


def _overlap(one: Grey, other: Grey, placed: NDArray[Any]) -> float:
    size = other.shape[1], other.shape[0]
    inside = cv2.warpAffine(np.full_like(one, 255), placed, size) == 255
    enlarged = abs(float(np.linalg.det(placed[:, :2])))
    least, most = ENLARGED
    if not least < enlarged < most or inside.sum() < LEAST_SHARE * min(one.size * enlarged, other.size):
        return 0.0
    laid = cv2.warpAffine(one, placed, size)
    mean = int(other[inside].mean())
    # Outside of the overlap both are the same, so that its edge is no detail.
    here, there = (np.where(inside, each, mean).astype(np.uint8) for each in (laid, other))
    return _correlation(_details(here)[inside], _details(there)[inside])


def _details(grey: Any) -> NDArray[np.float32]:
    """Without noise, and without light and shape, which photos of other things share."""
    fine = np.asarray(cv2.GaussianBlur(grey, (0, 0), 2.0), np.float32)
    details: NDArray[np.float32] = fine - np.asarray(cv2.GaussianBlur(grey, (0, 0), 8.0), np.float32)
    return details


def _correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    one, other = one.ravel(), other.ravel()
    return float(one @ other) / max(float(np.linalg.norm(one) * np.linalg.norm(other)), 1.0)
