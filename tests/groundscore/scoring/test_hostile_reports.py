"""Reports, rows, partial results and predictions with every field replaced by what does not belong there."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from evaluation.records import ImageResult, PartialFile, PartialResults
from groundscore.errors import UserError
from groundscore.exchange.jsonl import read_predictions
from groundscore.scoring.comparison import compare_reports
from groundscore.scoring.report import ReportFiles, write_report
from groundscore.scoring.split_scores import score_split
from groundscore.scoring.tables import scores_table
from groundscore.splits import OpenSplit
from tests.groundscore.scoring.rows import question, row

PLAIN, MUSE = "refcoco|unc|val", "MultiReasonSeg|val"
HOSTILE = [
    None,
    True,
    "3",
    "",
    -1,
    0.5,
    10**30,
    float("nan"),
    float("inf"),
    [],
    {},
    [[[[0]]]],
    [-1],
    {"counts": "PP"},
    "\ud800",
    "a\x00b",
]


def report_of(path, spec: str, rows: list):
    scores = score_split(spec, rows, bootstrap=20) | {
        "protocol": {"answer": "given", "expressions": "single", "layer": "checkpoint", "limit": None},
        "silent": 0,
        "layers": {"3": 4},
        "seconds": 1.5,
    }
    report = {
        "splits": {spec: scores},
        "protocol": {"answer": "given", "gres_reference": False},
        "checkpoint": {"version": "runs/a"},
        "layers": {"3": 4},
    }
    write_report(path, report, scores_table(report["splits"]), [(spec, "given", rows)])
    return path


@pytest.fixture(params=[PLAIN, MUSE])
def reports(tmp_path, request):
    rows = (
        [row(2, 4, 6, item=n, answer="Sure.", ref=n) for n in range(4)]
        if request.param == PLAIN
        else [question([[2, 1]], [4], [6, 3], item=n) for n in range(4)]
    )
    return [report_of(tmp_path / f"{name}.json", request.param, rows) for name in "ab"]


def paths_in(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The keys and indices that lead to every value inside."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from paths_in(inner, (*path, key))


def with_value(whole: Any, path: tuple, value: Any) -> Any:
    changed = json.loads(json.dumps(whole))
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


def at(whole: Any, path: tuple) -> Any:
    for key in path:
        whole = whole[key]
    return whole


def alike(value: Any, other: Any) -> bool:
    """Whether a hostile value may as well be right there: of the same type, finite and in range."""
    if value is None or other is None:
        return True
    return type(value) is type(other) and not isinstance(value, int | float)


def test_every_field_of_a_row_has_its_type(reports):
    a, b = reports
    lines = ReportFiles(a).rows.read_text().splitlines()
    first = json.loads(lines[0])
    for path in paths_in(first):
        for value in HOSTILE:
            if alike(value, at(first, path)) and path[-1] in ("answer", "ref", "image"):
                continue
            if value == at(first, path) or (path[-1] == "split" and isinstance(value, str)):
                continue
            ReportFiles(a).rows.write_text("\n".join([json.dumps(with_value(first, path, value)), *lines[1:]]))
            try:
                compare_reports(a, b, samples=5)
            except UserError as error:
                assert "\n" not in str(error), (path, value)
            else:
                pytest.fail(f"{path} was taken as {value!r}")


@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b"\xff",
        b"[" * 10**5,
        b'{"split": ' + b"9" * 5000,
        b'{"item": 1e999}',
        b"{" + b" " * 2**16,
    ],
)
def test_a_line_that_is_no_row_is_named(reports, line):
    a, b = reports
    lines = ReportFiles(a).rows.read_bytes().split(b"\n")
    ReportFiles(a).rows.write_bytes(b"\n".join([lines[0], line, *lines[1:]]))
    with pytest.raises(UserError, match=r"a\.rows\.jsonl.* line 2"):
        compare_reports(a, b)


def test_counts_that_contradict_each_other_are_refused(reports):
    a, b = reports
    text = ReportFiles(a).rows.read_text()
    for changed, message in (
        (
            text.replace('"target_area": 6', '"target_area": 7').replace('"target_areas": [6', '"target_areas": [1'),
            "is not a row",
        ),
        (text + text.splitlines()[0], "same expression as line 1"),
        ("\n".join(text.splitlines()[1:]), "do not match"),
    ):
        ReportFiles(a).rows.write_text(changed)
        with pytest.raises(UserError, match=message):
            compare_reports(a, b)


def test_every_field_of_a_report_has_its_type(reports):
    a, b = reports
    whole = json.loads(a.read_text())
    accepted = []
    for path in paths_in(whole):
        for value in HOSTILE:
            a.write_text(json.dumps(with_value(whole, path, value)))
            try:
                compare_reports(a, b, samples=5)
            except UserError as error:
                assert "\n" not in str(error), (path, value)
            else:
                accepted.append((path, value))
    wrong = [
        (path, value)
        for path, value in accepted
        if not alike(value, at(whole, path)) and not (0 <= value <= 1) and path[-1] != "limit"
    ]
    assert not wrong
    assert not [value for _, value in accepted if isinstance(value, float) and not 0 <= value <= 1]


def partial_of(directory) -> PartialResults:
    return PartialResults(directory, "abc", "key")


def test_partial_results_that_are_not_ours_are_moved_aside(tmp_path, capsys):
    results = [ImageResult(n, [row(2, 4, 6, item=n, answer="Sure.")], 0, [3], [{"split": PLAIN}], "d") for n in (0, 1)]
    whole = json.loads(results[0].to_line())
    for path in paths_in(whole):
        for number, value in enumerate(HOSTILE):
            if path[:1] == ("predictions",) and len(path) > 1:
                continue
            if value == at(whole, path) or (
                alike(value, at(whole, path)) and path[-1] in ("answer", "ref", "image", "data")
            ):
                continue
            if path == ("rows",) and value == [] or path in (("layers",), ("predictions",)) and value == []:
                continue
            directory = tmp_path / f"{'-'.join(map(str, path))}-{number}"
            directory.mkdir()
            file = directory / "key-abc.0.partial"
            file.write_text(json.dumps(with_value(whole, path, value)) + "\n" + results[1].to_line())
            (directory / "key-abc.1.partial").write_text(results[1].to_line() + results[0].to_line()[:9])

            assert partial_of(directory).read() == {1: results[1]}, (path, value)
            assert not file.exists() and (directory / "key-abc.0.partial.damaged").exists()
            said = capsys.readouterr().err
            assert said.count("\n") == 1 and "counted again" in said


@pytest.mark.parametrize("spec", [PLAIN, MUSE])
def test_every_field_of_a_prediction_has_its_type(tmp_path, spec):
    line = {"split": spec, "image": "0.jpg", "expression": 0, "present": True, "answer": "Sure."}
    line |= {"masks": []} if spec == MUSE else {"mask": None}
    path = tmp_path / "p.jsonl"
    for key in line:
        for value in HOSTILE:
            path.write_text(json.dumps(line | {key: value}))
            try:
                read_predictions(path, {spec: OpenSplit(spec, tmp_path, [])})
            except UserError as error:
                assert "line 1" in str(error) or "contains no prediction" in str(error)
            else:
                right = alike(value, line[key]) or (key == "split" and isinstance(value, str))
                assert right or (key == "present" and isinstance(value, bool)), (key, value)


def test_a_full_disk_ends_an_evaluation_in_one_line():
    with open("/dev/full", "w") as full:
        with pytest.raises(UserError, match="/dev/full cannot be written .No space left on device.; .*--output"):
            PartialFile(full).add([ImageResult(item=0, rows=[row(2, 4, 6, item=0)])])
