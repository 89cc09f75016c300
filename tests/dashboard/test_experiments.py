"""What the Runs tab reads from disk, also while a run is writing."""

import json
import os

import pytest

from dashboard.runs import (
    _listing,
    _scores,
    curve,
    find_experiments,
    read_metrics,
    read_reports,
    read_scores,
    scalar_names,
)


def write_run(folder, records, scores=None, changed=1_000_000):
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if scores:
        (folder / "scores.json").write_text(json.dumps(scores))
    for file in folder.iterdir():
        os.utime(file, (changed, changed))


def test_experiments_are_found_at_any_depth_the_newest_first(tmp_path):
    write_run(tmp_path / "old", [{"step": 5, "train/loss": 1.0}], changed=1000)
    best = {"step": 20, "split": "ReasonSeg|val", "gIoU": 0.5, "cIoU": 0.25}
    write_run(tmp_path / "group/new", [{"step": 20, "train/loss": 1.0}], {"best": best, "evaluations": []}, 2000)
    (tmp_path / "group/new/tensorboard").mkdir()
    (tmp_path / "nothing").mkdir()
    (tmp_path / "reports/eval").mkdir(parents=True)
    (tmp_path / "reports/eval/a.json").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "group")
    old, new, reports = sorted(find_experiments(tmp_path), key=lambda experiment: experiment.changed)
    assert (reports.name, reports.step, reports.best) == ("reports", None, None)
    assert (old.name, old.step, old.best) == ("old", 5, None)
    assert (new.name, new.step, new.best) == ("group/new", 20, best)
    assert find_experiments(tmp_path / "nowhere") == []


def test_a_line_that_is_being_written_is_left_out_and_the_later_record_counts(tmp_path):
    write_run(tmp_path / "run", [{"step": 1, "a": 1.0}, {"step": 2, "a": 2.0}, {"step": 1, "a": 3.0, "b": 1}])
    with (tmp_path / "run/metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "a"')
    records = read_metrics(tmp_path / "run")
    assert records == [{"step": 1, "a": 3.0, "b": 1}, {"step": 2, "a": 2.0}]
    assert scalar_names(records) == ["a", "b"]


def test_curves_are_thinned_and_leave_out_what_is_no_number():
    records = [{"step": step, "a": float(step), "b": [1], "c": None, "d": float("nan")} for step in range(1, 5001)]
    points = curve(records, "a")
    assert len(points) <= 600 and points[-1] == (5000, 5000.0)
    assert all(step == value for step, value in points)
    assert [curve(records, name) for name in "bcd"] == [[], [], []]
    assert scalar_names(records) == ["a"]


def test_scores_are_a_row_for_each_split(tmp_path):
    splits = {"ReasonSeg|val": {"gIoU": 0.5, "cIoU": None}, "refcoco|unc|val": {"gIoU": 0.25, "cIoU": 0.125}}
    write_run(tmp_path / "run", [], {"best": None, "evaluations": [{"step": 10, "epoch": 0, "splits": splits}]})
    assert read_scores(tmp_path / "run") == [
        ["10", "ReasonSeg|val", "50.0", "none"],
        ["10", "refcoco|unc|val", "25.0", "12.5"],
    ]
    (tmp_path / "run/scores.json").write_text("{")
    assert read_scores(tmp_path / "run") == []


def test_reports_of_one_and_of_two_protocols_are_a_row_for_each_score(tmp_path):
    write_run(tmp_path / "run", [], {"best": None, "evaluations": []})
    (tmp_path / "run/eval").mkdir()
    given, generated = (
        {"gIoU": 0.5, "cIoU": iou, "images": 24, "protocol": {"answer": answer}}
        for answer, iou in (("given", 0.25), ("generated", None))
    )
    report = {"protocol": {"answer": "both"}, "splits": {"ReasonSeg|val": {"given": given, "generated": generated}}}
    (tmp_path / "run/eval/both.json").write_text(json.dumps(report))
    (tmp_path / "run/trained.json").write_text(json.dumps({"protocol": {}, "splits": {"refcoco|unc|val": given}}))
    (tmp_path / "run/eval/broken.json").write_text("{")
    (tmp_path / "run/eval/other.json").write_text(json.dumps({"protocol": {}, "splits": {"a": [1], "b": {"c": 1}}}))
    assert read_reports(tmp_path / "run") == [
        ["both", "ReasonSeg|val", "given", "50.0", "25.0", "", "24"],
        ["both", "ReasonSeg|val", "generated", "50.0", "none", "", "24"],
        ["trained", "refcoco|unc|val", "given", "50.0", "25.0", "", "24"],
    ]


DAMAGES = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe\x00",
    b"[" * 100_000,
    b'{"best": [], "evaluations": {}}',
    b'{"best": {"step": 1, "split": "a", "gIoU": "x", "cIoU": 0.5}, "evaluations": []}',
    b'{"best": null, "evaluations": [{"step": 1, "epoch": 0, "splits": {"a": 3}}]}',
    b'{"step": true}\n{"step": "x"}\n{"step": 2, "a": 1' + b"0" * 400 + b"}",
    b'{"step": 1, "\\ud800": 1.0}',
    b'{"splits": {"a": {"protocol": "x", "gIoU": []}}, "protocol": {}}',
]


@pytest.mark.parametrize("content", DAMAGES)
@pytest.mark.parametrize("name", ["metrics.jsonl", "scores.json", "eval/report.json"])
def test_no_damaged_file_takes_the_tab_with_it(tmp_path, name, content):
    write_run(tmp_path / "good", [{"step": 5, "train/loss": 1.0}])
    (tmp_path / "bad/eval").mkdir(parents=True)
    (tmp_path / "bad" / name).write_bytes(content)
    experiments = find_experiments(tmp_path)
    assert {experiment.name for experiment in experiments} == {"good", "bad"}
    page = _listing(experiments, tmp_path) + _scores({one.name: one.directory for one in experiments})
    records = read_metrics(tmp_path / "bad")
    json.dumps([scalar_names(records), [curve(records, one) for one in scalar_names(records)], page]).encode("ascii")
    page.encode("utf-8")
    assert ("scores.json is damaged" in page) == (name == "scores.json")


def test_what_is_no_file_and_names_that_are_no_text_are_passed_over(tmp_path):
    write_run(tmp_path / "good", [{"step": 5, "train/loss": 1.0}])
    os.mkfifo(tmp_path / "good/scores.json")
    (tmp_path / "good/eval").mkdir()
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/odd\xff")
    os.mkdir(odd)
    with open(f"{odd}/metrics.jsonl", "w") as file:
        file.write('{"step": 1}')
    experiments = find_experiments(tmp_path)
    assert sorted(experiment.name for experiment in experiments) == ["good", "odd?"]
    _listing(experiments, tmp_path).encode("utf-8")
