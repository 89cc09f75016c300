"""Reports on disk, their tables, and the comparison of two."""

import json

import numpy as np
import pytest

from groundscore.errors import UserError
from groundscore.scoring.comparison import compare_reports, differences_between
from groundscore.scoring.report import ReportFiles, read_report, read_rows, write_report
from groundscore.scoring.split_scores import score_split
from groundscore.scoring.tables import markdown_table, scores_table
from tests.groundscore.scoring.rows import question, row

SPEC = "refcoco|unc|val"


def written(path, rows, *, spec=SPEC, answer="given", **protocol):
    """A report about one split."""
    scores = score_split(spec, rows, bootstrap=100) | {"protocol": {"answer": answer, "expressions": "single"}}
    report = {"splits": {spec: scores}, "protocol": {"answer": answer} | protocol}
    write_report(path, report, scores_table(report["splits"]), [(spec, answer, rows)])
    return path


def noisy_rows(seed, better=0.0, images=60):
    """Expressions of which some images are hard; `better` adds to every IoU."""
    hard = np.random.default_rng(0).uniform(0.1, 0.7, images)
    noise = np.random.default_rng(seed).normal(0, 0.05, (images, 3))
    values = np.clip(hard[:, None] + noise + better, 0, 1)
    return [
        row(int(1000 * values[item, n]), 1000, int(1000 * values[item, n]), item=item, expression=n)
        for item in range(images)
        for n in range(3)
    ]


def test_a_report_holds_what_it_was_written_with(tmp_path):
    rows = [row(1, 2, 3, item=n) for n in range(3)]
    muse = [question([[1]], [1], [2], item=n) for n in range(2)]
    splits = {SPEC: score_split(SPEC, rows)}
    write_report(
        tmp_path / "a.json",
        {"splits": splits},
        "the table",
        [(SPEC, "given", rows), ("MultiReasonSeg|v", "given", muse)],
    )

    assert read_report(tmp_path / "a.json") == {"splits": json.loads(json.dumps(splits))}
    assert (tmp_path / "a.md").read_text() == "# a\n\nthe table\n"
    assert read_rows(tmp_path / "a.json") == {(SPEC, "given"): rows, ("MultiReasonSeg|v", "given"): muse}
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", "a.md", "a.rows.jsonl"}


def test_scores_follow_from_the_rows_beside_a_report(tmp_path):
    path = written(tmp_path / "a.json", noisy_rows(1))

    scores = read_report(path)["splits"][SPEC]
    again = score_split(SPEC, read_rows(path)[SPEC, "given"], bootstrap=100)

    assert {name: scores[name] for name in again} == again


def test_a_number_that_json_does_not_know_is_not_written(tmp_path):
    with pytest.raises(ValueError):
        write_report(tmp_path / "a.json", {"splits": {SPEC: {"gIoU": float("nan")}}}, "", [])
    assert not (tmp_path / "a.json").exists()


@pytest.mark.parametrize(
    "content,message",
    [
        (None, "is missing; name a report"),
        ("{", "not valid JSON.*evaluate again"),
        ("[]", "not a report"),
        ("{}", "no 'splits'"),
    ],
)
def test_what_is_no_report_is_an_error(tmp_path, content, message):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_text(content)

    with pytest.raises(UserError, match=message):
        read_report(path)


def test_missing_or_damaged_rows_are_an_error(tmp_path):
    path = written(tmp_path / "a.json", noisy_rows(1))
    lines = ReportFiles(path).rows.read_text().splitlines()
    ReportFiles(path).rows.write_text("\n".join([lines[0], lines[1][:-9]]))
    with pytest.raises(UserError, match=r"a\.rows\.jsonl, line 2 is not valid JSON"):
        read_rows(path)
    ReportFiles(path).rows.unlink()
    with pytest.raises(UserError, match=r"a\.rows\.jsonl is missing"):
        read_rows(path)


def test_tables_group_splits_and_name_their_protocol():
    def scored(spec, rows, answer):
        return score_split(spec, rows, bootstrap=50) | {"protocol": {"answer": answer, "expressions": "single"}}

    gres = [row(5, 5, 10, item=n) for n in range(4)]
    splits = {
        SPEC: {"given": scored(SPEC, gres, "given"), "generated": scored(SPEC, gres, "generated")},
        "grefcoco|unc|val": {"given": scored("grefcoco|unc|val", gres, "given")},
        "fprefcoco|val": {"given": {"error": "the file is gone", "protocol": {"answer": "given"}}},
    }

    text = scores_table(splits, nested=True, explain={"given": "the answer is given"})

    lines = [[cell.strip() for cell in line.replace("\\|", "/").split("|")[1:-1]] for line in text.splitlines()]
    assert ["refcoco/unc/val", "given", "single", "50.0 (50.0–50.0)"] in [line[:4] for line in lines]
    assert ["refcoco/unc/val", "generated", "single"] in [line[:3] for line in lines]
    (gres_line,) = [line for line in lines if line[:1] == ["grefcoco/unc/val"]]
    assert gres_line[5] == "none"  # N_acc
    assert "- given: the answer is given" in text
    assert "fprefcoco|val (given) could not be scored: the file is gone" in text


def test_table_cells_may_hold_bars():
    assert markdown_table([["a|b", "c"], ["d", "eee"]]) == "| a\\|b | c   |\n|------|-----|\n| d    | eee |"


def test_a_better_report_is_told_apart_where_single_intervals_overlap(tmp_path):
    a = written(tmp_path / "a.json", noisy_rows(1))
    b = written(tmp_path / "b.json", noisy_rows(2, better=0.04))

    found = {one.metric: one for one in differences_between(a, b, samples=2000)}

    giou = found["gIoU"]
    intervals = [read_report(path)["splits"][SPEC]["gIoU_ci95"] for path in (a, b)]
    assert intervals[0][1] > intervals[1][0]  # hard images alone make these wide
    assert 0 < giou.low < giou.difference < giou.high < 0.08
    assert giou.p < 0.01
    assert (giou.a, giou.b) == tuple(read_report(path)["splits"][SPEC]["gIoU"] for path in (a, b))


def test_equal_quality_is_not_told_apart(tmp_path):
    a = written(tmp_path / "a.json", noisy_rows(1))
    b = written(tmp_path / "b.json", noisy_rows(2))

    (giou,) = [one for one in differences_between(a, b, samples=2000) if one.metric == "gIoU"]

    assert giou.low < 0 < giou.high
    assert giou.p > 0.05


def test_p_and_interval_agree_where_few_images_differ(tmp_path):
    rows = [[row(9 if n >= lost else 0, 9, 9, item=n) for n in range(14)] for lost in (0, 3)]
    a, b = (written(tmp_path / f"{name}.json", some) for name, some in zip("ab", rows, strict=True))

    (giou,) = [one for one in differences_between(a, b, samples=2000) if one.metric == "gIoU"]

    assert giou.high == 0.0  # one resample in thirty has none of the three images
    assert giou.p > 0.05


def test_a_report_does_not_differ_from_itself(tmp_path):
    a = written(tmp_path / "a.json", noisy_rows(1))

    assert {(one.difference, one.low, one.high, one.p) for one in differences_between(a, a, samples=200)} == {
        (0.0, 0.0, 0.0, 1.0)
    }


def test_the_comparison_is_a_table_that_names_both(tmp_path):
    a = written(tmp_path / "a.json", noisy_rows(1), answer="given")
    b = written(tmp_path / "b.json", noisy_rows(2), answer="generated")

    text = compare_reports(a, b, samples=200)

    assert f"A: {a}" in text
    assert "| refcoco\\|unc\\|val | given / generated | gIoU" in text


def test_muse_reports_compare(tmp_path):
    rows = [[question([[value]], [10], [10], item=n) for n in range(20)] for value in (4, 5)]
    paths = [written(tmp_path / f"{n}.json", some, spec="MultiReasonSeg|val") for n, some in enumerate(rows)]

    found = {one.metric: one for one in differences_between(*paths, samples=100)}

    assert found["gIoU"].difference == pytest.approx(5 / 15 - 4 / 16)


def test_reports_of_other_images_or_counting_do_not_compare(tmp_path):
    a = written(tmp_path / "a.json", noisy_rows(1))
    fewer = written(tmp_path / "fewer.json", noisy_rows(1, images=30))
    other = written(tmp_path / "other.json", noisy_rows(1), spec="refcoco|unc|testA")
    reference = written(tmp_path / "reference.json", noisy_rows(1), gres_reference=True)

    for b, message in (
        (fewer, r"different expressions \(180 and 90\)"),
        (other, "share no split"),
        (reference, "counted differently"),
    ):
        with pytest.raises(UserError, match=message):
            compare_reports(a, b)
