"""The benchmark of the service runs and prints the ratio of one run."""

import re

import pytest

from benchmarks import service


@pytest.mark.slow
def test_it_prints_both_times_and_their_ratio(capsys):
    service.main(["--questions", "2", "--rounds", "1", "--max_new_tokens", "2", "--threads", "1", "--max_batch", "2"])

    header, _, row = capsys.readouterr().out.strip().splitlines()[-3:]
    assert header == "|questions|one by one, s|2 at once, s|ratio|"
    one, together, ratio = map(float, re.fullmatch(r"\|2\|([\d.]+)\|([\d.]+)\|([\d.]+)\|", row).groups())
    assert ratio == pytest.approx(one / together, rel=0.1)
