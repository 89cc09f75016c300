"""Ranks that start together build an index once, and ask a shared disk for little when it is there."""

from benchmarks.ranks import BATCH_SIZE, start_ranks
from benchmarks.synthetic import write_synthetic


def test_ranks_build_each_index_once_and_then_open_it_with_few_operations(tmp_path):
    write_synthetic(tmp_path / "data", 12)
    (first, built), (again, rebuilt) = (
        start_ranks(tmp_path / "data", "refer_seg||vqa", tmp_path / "cache", ranks=3, together=3) for _ in range(2)
    )

    indices = len(list((tmp_path / "cache").glob("*.arrow")))
    assert indices == 7
    assert (built, rebuilt) == (indices, 0)
    for rank in again:
        assert not rank.operations.get("os.mkdir")
        assert sum(rank.operations.values()) < 60 * indices
    assert [sample for rank in first for sample in rank.samples] == [(0, item) for item in range(3 * BATCH_SIZE)]
