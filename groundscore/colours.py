"""Colours of masks: told apart on the image beneath and from each other, by colour-blind readers, too.

A difference of colours is CIEDE2000 (Sharma, Wu and Dalal, 2005), the least of three ways of seeing: usual, protanopia
and deuteranopia (Machado, Oliveira and Fernandes, 2009). Below 5 it is hard to see, from 20 on it is plain.
"""

import colorsys
from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np

Colour = tuple[int, int, int]

# From 21 on apart from each other, whoever looks, and rare in photos as far as that leaves a choice.
COLOURS: tuple[Colour, ...] = (
    (232, 115, 255),
    (255, 255, 0),
    (0, 153, 127),
    (204, 102, 0),
    (115, 255, 232),
    (170, 0, 204),
    (0, 0, 102),
    (102, 51, 0),
)
IGNORE_COLOUR: Colour = (150, 150, 150)
BLACK: Colour = (0, 0, 0)
WHITE: Colour = (255, 255, 255)

BENEATH, APART = 30.0, 28.0  # differences from the image beneath and from other masks from which on more is no gain
_SHARE = 0.2  # of the pixels beneath that may be more like the colour
_SAMPLES = 80  # pixels that stand for those beneath a mask

# Of linear RGB, as protanopes and as deuteranopes see it.
_SIGHTS = (
    np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
)


def choose_colours(image: np.ndarray, masks: Sequence[np.ndarray]) -> list[Colour]:
    """Returns a colour for every mask (bool [H, W]) of an image (uint8 RGB [H, W, 3]), in order.

    Those of `COLOURS` come first where they are plain on what the mask covers and beside the colours before; else it
    is the colour that is, or the one that comes nearest to it. Any number of masks gets colours, from about ten on
    less different ones.
    """
    candidates, between = _candidates()
    beside = np.full(len(candidates), np.inf)
    chosen: list[Colour] = []
    for mask in masks:
        pixels = _pixels_beneath(image, np.asarray(mask))
        plain = np.full(len(candidates), 1.0)
        if len(pixels):
            plain = np.minimum(_seen_beneath(candidates, pixels) / BENEATH, 1)
        best = int(np.argmax(np.minimum(plain, np.minimum(beside / APART, 1))))
        chosen.append(tuple(int(value) for value in candidates[best]))
        beside = np.minimum(beside, between[best])
    return chosen


def text_on(colour: Colour) -> Colour:
    """Returns black or white, whichever is read better on `colour`: their contrast is 4.5 : 1 at least."""
    return max((BLACK, WHITE), key=lambda text: contrast(text, colour))


def contrast(one: Colour, other: Colour) -> float:
    """Returns the contrast of two colours, 1 to 21, as WCAG 2 defines it."""
    dark, light = sorted(float(_linear(np.array(each)) @ (0.2126, 0.7152, 0.0722)) for each in (one, other))
    return (light + 0.05) / (dark + 0.05)


def difference(ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns how far colours are apart for whoever sees it least: CIEDE2000 [...] of RGB 0 to 255 [..., 3]."""
    pairs = zip(_as_seen(ones), _as_seen(others), strict=True)
    return np.minimum.reduce([ciede2000(one, other) for one, other in pairs])


def _seen_beneath(colours: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """[n]: how far each colour [n, 3] is from pixels [k, 3], all but the `_SHARE` that is most like it, and from their
    mean."""
    apart = difference(colours[:, None], pixels[None].astype(np.float64))
    mean = difference(colours, pixels.mean(axis=0, keepdims=True))
    return np.minimum(np.quantile(apart, _SHARE, axis=1), mean)


def _pixels_beneath(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Up to `_SAMPLES` pixels [k, 3] of the image inside the mask, evenly spread and always the same ones."""
    step = max(1, int((mask.size / 250_000) ** 0.5))
    inside = image[::step, ::step][mask[::step, ::step] != 0]
    if not len(inside):  # a mask finer than the steps
        inside = image[mask != 0]
    return inside[:: max(1, -(-len(inside) // _SAMPLES))]


@cache
def _candidates() -> tuple[np.ndarray, np.ndarray]:
    """The colours [n, 3] to choose from, `COLOURS` first, and how far they are apart [n, n]."""
    tones = ((1, 1), (1, 0.7), (1, 0.4), (0.8, 0.95), (0.55, 1))
    hues = [colorsys.hsv_to_rgb(hue / 24, *tone) for tone in tones for hue in range(24)]
    rest = [tuple(round(255 * value) for value in rgb) for rgb in hues]
    colours = np.array(list(dict.fromkeys([*COLOURS, *rest, WHITE])), dtype=np.float64)
    return colours, difference(colours[:, None], colours[None])


# --- how colours are seen ---------------------------------------------------------------------------------------------


def _linear(rgb: np.ndarray) -> np.ndarray:
    """Linear RGB in [0, 1] of sRGB 0 to 255."""
    rgb = np.asarray(rgb, dtype=np.float64) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def _as_seen(rgb: np.ndarray) -> list[np.ndarray]:
    """CIE L*a*b* (D65) [..., 3] of RGB 0 to 255 [..., 3]: as it is usually seen, and by each of `_SIGHTS`."""
    linear = _linear(rgb)
    views = [linear, *(np.clip(linear @ matrix.T, 0, 1) for matrix in _SIGHTS)]
    return [lab(np.where(v <= 0.0031308, 12.92 * v, 1.055 * v ** (1 / 2.4) - 0.055)) for v in views]


def lab(rgb: np.ndarray) -> np.ndarray:
    """Returns CIE L*a*b* (D65) [..., 3] of RGB in [0, 1] [..., 3]."""
    rgb = np.asarray(rgb, dtype=np.float32)
    return cv2.cvtColor(rgb.reshape(-1, 1, 3), cv2.COLOR_RGB2LAB).reshape(rgb.shape).astype(np.float64)


def ciede2000(ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the CIEDE2000 difference [...] of L*a*b* colours [..., 3], in Sharma, Wu and Dalal's symbols."""
    (L1, a1, b1), (L2, a2, b2) = (np.moveaxis(np.asarray(each, dtype=np.float64), -1, 0) for each in (ones, others))
    C = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    G = 0.5 * (1 - np.sqrt(C**7 / (C**7 + 25**7)))
    a1, a2 = (1 + G) * a1, (1 + G) * a2
    C1, C2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = np.degrees(np.arctan2(b1, a1)) % 360, np.degrees(np.arctan2(b2, a2)) % 360
    grey = C1 * C2 == 0
    dh = np.where(grey, 0, (h2 - h1 + 180) % 360 - 180)
    dL, dC, dH = L2 - L1, C2 - C1, 2 * np.sqrt(C1 * C2) * np.sin(np.radians(dh / 2))
    L, C = (L1 + L2) / 2, (C1 + C2) / 2
    h = np.where(grey, h1 + h2, (h1 + dh / 2) % 360)
    T = sum(
        weight * np.cos(np.radians(times * h + shift))
        for weight, times, shift in ((1, 0, 0), (-0.17, 1, -30), (0.24, 2, 0), (0.32, 3, 6), (-0.2, 4, -63))
    )
    S_L = 1 + 0.015 * (L - 50) ** 2 / np.sqrt(20 + (L - 50) ** 2)
    S_C, S_H = 1 + 0.045 * C, 1 + 0.015 * C * T
    R_T = -2 * np.sqrt(C**7 / (C**7 + 25**7)) * np.sin(np.radians(60 * np.exp(-(((h - 275) / 25) ** 2))))
    return np.sqrt((dL / S_L) ** 2 + (dC / S_C) ** 2 + (dH / S_H) ** 2 + R_T * (dC / S_C) * (dH / S_H))
