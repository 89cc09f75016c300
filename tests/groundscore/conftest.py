"""What the tests of readers, splits and scores share: small data sets, and the miniature with every evaluation set."""

import pytest

from miniature import data
from tests.data_sets import data_root, picture

__all__ = ["data_root", "picture"]

TRAINING_ONLY = {"ade20k", "cocostuff", "mapillary", "pascal_part", "paco_lvis", "llava", "reason_seg_plus"}


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("scoring") / "miniature"
    data.write(root, seed=5, scale=0.03, sets=[name for name in data.COUNTS if name not in TRAINING_ONLY])
    return root
