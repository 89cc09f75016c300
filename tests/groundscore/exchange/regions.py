"""Masks and regions that the tests of tools share."""

from pathlib import Path

import cv2
import numpy as np

from groundscore.exchange.regions import RegionImage

HEIGHT, WIDTH = 60, 80


def ring_shape() -> np.ndarray:
    """A disc with a hole, and a second part that touches it at a corner."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.circle(mask, (30, 30), 20, 1, -1)
    cv2.circle(mask, (30, 30), 8, 0, -1)
    mask[5:10, 60:75] = 1
    return mask


def blob(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).random((HEIGHT, WIDTH))
    return (cv2.GaussianBlur(noise, (0, 0), 4) > 0.5).astype(np.uint8)


def square() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[20:40, 10:50] = 1
    return mask


def masks_of(image: RegionImage) -> dict[str, list[bytes]]:
    """The masks of an image by label, in no order."""
    found: dict[str, list[bytes]] = {}
    for one in image.regions:
        found.setdefault(one.label, []).append(one.mask["counts"])
    return {label: sorted(masks) for label, masks in found.items()}


def same_image(one: RegionImage, other: RegionImage) -> bool:
    return masks_of(one) == masks_of(other) and one.content == other.content


def by_name(images) -> dict[str, RegionImage]:
    return {Path(image.name).stem: image for image in images}
