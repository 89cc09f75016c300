"""The cost of an expression in evaluation, on the small model."""

import json

from benchmarks import eval as benchmark


def test_batching_saves_most_of_the_work(tmp_path, capsys):
    benchmark.main(["--small", "--conversations", "5", "--tokens", "2", "--repeat", "1", "--out", str(tmp_path / "x")])
    content = json.loads((tmp_path / "x").read_text())
    for name in ("teacher-forced", "2 tokens generated"):
        batched, single = content[name]["batched"], content[name]["one at a time"]
        assert set(batched) == set(single) == {"flops", "seconds", "cpu_seconds"}
        assert 0.2 < batched["flops"] / single["flops"] < 0.5, name
    assert "GFLOP per expression" in capsys.readouterr().out
