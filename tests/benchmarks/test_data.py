"""The data's cost: an index starts at once the second time, and no process holds the annotations."""

import os

import pytest

from benchmarks import data, loader
from benchmarks.measuring import MEGABYTE
from benchmarks.synthetic import write_synthetic
from dataloaders.data_checks import check_data
from groundscore.annotations.index_cache import ENVIRONMENT
from groundscore.errors import UserError


def test_a_generated_root_is_complete(tmp_path):
    write_synthetic(tmp_path, 12)
    states = {report.name: (report.state, report.problems) for report in check_data(tmp_path, decode=True)}
    assert states.pop("ReasonSeg|test")[0] == "missing"
    assert {state for state, _ in states.values()} == {"present"}, states


def test_a_worker_needs_no_more_memory_for_more_annotations(tmp_path):
    costs = []
    for images in (50, 4000):
        write_synthetic(tmp_path / str(images), images)
        costs.append(data.measure(tmp_path / str(images), "sem_seg||vqa", draws=20, tokenizer=None))
    few, many = costs
    annotations = tmp_path / "4000/vlpart/paco/annotations/paco_lvis_v1_train.json"
    assert annotations.stat().st_size > 12 * MEGABYTE
    assert many.first.megabytes < few.first.megabytes + 2 * annotations.stat().st_size / MEGABYTE
    assert many.work.megabytes < few.work.megabytes + 8
    assert many.again.cpu_seconds < 2


def test_a_worker_that_is_killed_is_an_error_and_no_endless_wait(tmp_path, monkeypatch):
    write_synthetic(tmp_path, 12)
    monkeypatch.setattr(data, "_work", lambda *_: os._exit(137))
    monkeypatch.setenv(ENVIRONMENT, "")  # which it sets for the process of its own that it is meant for
    monkeypatch.setattr("torch.set_num_threads", lambda number: None)
    with pytest.raises(UserError, match=r"vqa: the worker died \(exit code 137\)"):
        data._start(tmp_path, "vqa", str(tmp_path / "cache"), 2, None)


def test_the_table_has_a_row_for_every_family(tmp_path, capsys):
    write_synthetic(tmp_path, 12)
    data.main(["--dataset_dir", str(tmp_path), "--families", "vqa||nothing", "--draws", "2"])
    header, _, vqa, nothing = capsys.readouterr().out.splitlines()
    assert vqa.startswith("|vqa|") and vqa.count("|") == header.count("|")
    assert "unknown family 'nothing'" in nothing


def test_the_loader_of_training_is_measured_with_so_many_workers(tmp_path, capsys):
    write_synthetic(tmp_path, 12)
    arguments = ["--dataset_dir", str(tmp_path), "--workers", "1", "--samples", "8", "--batch_size", "2"]
    loader.main([*arguments, "--families", "vqa||refer_seg", "--needed", "0.001"])
    workers, rate, cpu, ratio = capsys.readouterr().out.splitlines()[-1].strip("|").split("|")
    assert workers == "1" and float(cpu) > 0 and float(ratio) == pytest.approx(1000 * float(rate), rel=0.1)
    with pytest.raises(UserError, match="--samples 8: more than 8 are needed with 2 workers"):
        loader.loader_rate(tmp_path, "vqa", 2, 2, 8, None)


@pytest.mark.parametrize("arguments", [["--help"], []])
def test_usage_is_told(arguments, capsys):
    with pytest.raises(SystemExit):
        data.main(arguments)
    shown = capsys.readouterr()
    assert "--synthetic" in shown.out + shown.err


def test_the_loader_is_measured_on_photographs(capsys):
    loader.main(["--megapixels", "0.1", "--workers", "1", "--samples", "8"])
    workers, rate, cpu, _ = capsys.readouterr().out.splitlines()[-1].strip("|").split("|")
    assert workers == "1" and float(rate) > 0 and float(cpu) > 0
