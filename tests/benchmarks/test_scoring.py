"""The benchmark of scoring: its data are what it says, and every part of the command is measured."""

import groundscore
from benchmarks.scoring import SPECS, SPLITS, measure_parts, write_data


def test_data_of_the_official_sizes_are_scored_and_every_part_is_measured(tmp_path):
    share = 0.002
    write_data(tmp_path, share)

    splits = groundscore.load_all(SPECS, tmp_path)
    for split, (images, _, expressions) in zip(splits.values(), SPLITS.values(), strict=True):
        assert len(split) == round(share * images)
        assert sum(len(item.expressions) for item in split) == round(share * expressions)
    assert {"checking images", "drawing targets", "counting pixels"} < measure_parts(tmp_path).keys()
