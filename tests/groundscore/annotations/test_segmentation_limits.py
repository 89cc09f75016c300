"""Masks whose description would take minutes or gigabytes are bad entries, at once."""

import json

import pytest

from tests.bounded import run_bounded

SQUARE = [2, 2, 6, 2, 6, 6, 2, 6]
COSTLY = {
    "a hundred thousand shapes": "[SQUARE] * 100_000",
    "ten million points": "[[1.0] * 20_000_000]",
    "an outline around the world": "[[0, 0, 1e9, 1e9, 0, 1e9] * 100_000]",
    "a number of thousands of digits": "{'size': [480, 640], 'counts': [10**4000, 3]}",
    "negative numbers of thousands of digits": "{'size': [480, 640], 'counts': [-(10**4000)] * 1000}",
    "a text of one endless number": "{'size': [480, 640], 'counts': 'o' * 1_000_000}",
    "a text of five million runs": "{'size': [480, 640], 'counts': '0' * 5_000_000}",
    "millions of runs of nothing": "{'size': [480, 640], 'counts': [0] * 5_000_000}",
    "a run longer than the image": "{'size': [480, 640], 'counts': [2**62, 2**62]}",
}


@pytest.mark.parametrize("name", COSTLY)
def test_a_mask_that_costs_too_much_is_a_bad_entry(name):
    message = run_bounded(
        f"""
        from groundscore.annotations.segmentations import decode_segmentation
        SQUARE = {SQUARE}
        segmentation = {COSTLY[name]}
        resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
        limit()
        print(refused(lambda: decode_segmentation(segmentation, 480, 640, "a.json: annotation 7")))
        """,
        megabytes=600,
    )

    assert message.startswith("a.json: annotation 7")
    assert len(message) < 300


def test_a_labelme_file_of_a_hundred_thousand_shapes_is_refused(tmp_path):
    shapes = [{"label": "target", "points": [[1, 1], [5, 1], [5, 5]]}] * 100_000
    (tmp_path / "a.json").write_text(json.dumps({"shapes": shapes, "text": ["it"], "is_sentence": True}))

    message = run_bounded(
        """
        from pathlib import Path
        from groundscore.annotations.labelme import read_annotation
        print(refused(lambda: read_annotation(Path(sys.argv[1]))))
        """,
        tmp_path / "a.json",
    )

    assert "100000 parts" in message
