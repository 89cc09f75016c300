"""A photo, and images with regions on them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from groundscore.exchange.regions import RegionImage, region
from tests.groundscore.exchange.regions import HEIGHT, WIDTH, blob, ring_shape, square


@pytest.fixture
def photo(tmp_path) -> Path:
    """A JPEG, whose bytes have to stay as they are."""
    path = tmp_path / "photos" / "a photo.jpg"
    path.parent.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, quality=90)
    return path


@pytest.fixture
def images(photo) -> list[RegionImage]:
    """Two images: labels that several regions have, a label with odd characters, a region with texts."""
    other = photo.with_name("other.png")
    Image.new("RGB", (WIDTH, HEIGHT), "teal").save(other)
    size = (HEIGHT, WIDTH)
    regions = (
        region("ring", ring_shape()),
        region("cat", square()),
        region("cat", blob(1)),
        region("a dog/cat: 50%", blob(2)),
    )
    asked = region("kite", blob(3), ["What flies in the sky?", "red thing above"])
    return [RegionImage(photo, photo.name, size, regions), RegionImage(other, other.name, size, (asked,))]
