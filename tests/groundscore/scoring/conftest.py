"""The miniature with every evaluation set, small."""

import pytest

from miniature import data

TRAINING_ONLY = {"ade20k", "cocostuff", "mapillary", "pascal_part", "paco_lvis", "llava", "reason_seg_plus"}


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("scoring") / "miniature"
    data.write(root, seed=5, scale=0.03, sets=[name for name in data.COUNTS if name not in TRAINING_ONLY])
    return root
