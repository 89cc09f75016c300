"""The same counts by several conventions: by expression, ref and object; gRefCOCO as others count it; MUSE's pairs."""

from dataclasses import replace

import numpy as np
import pytest

from groundscore.errors import UserError
from groundscore.scoring.comparison import differences_between
from groundscore.scoring.report import Report, ReportFiles, SplitCounts
from groundscore.scoring.split_scores import score_split
from tests.groundscore.scoring.rows import question, row

REFER = "refcoco|unc|val"


def two_refs():
    """Ref 7 has three sentences with IoU 1, 0 and 0.5, ref 8 one with IoU 0.2; both are of one image."""
    rows = [row(10, 10, 10, ref=7), row(0, 10, 10, ref=7), row(5, 5, 10, ref=7), row(2, 2, 10, ref=8)]
    return [replace(one, expression=index, object=(0, 0, 0, 3)[index]) for index, one in enumerate(rows)]


def test_every_unit_has_the_same_weight():
    by_expression, by_ref = (score_split(REFER, two_refs(), unit=unit, bootstrap=0) for unit in ("expression", "ref"))

    assert by_expression["gIoU"] == pytest.approx((1 + 0 + 0.5 + 0.2) / 4)
    assert by_ref["gIoU"] == pytest.approx((0.5 + 0.2) / 2)
    assert by_expression["cIoU"] == 17 / 50
    assert by_ref["cIoU"] == pytest.approx((15 / 3 + 2) / (40 / 3 + 10))
    assert by_ref["P@0.5"] == pytest.approx((1 / 3 + 0) / 2)


def test_a_report_by_one_unit_has_the_scores_by_the_others_under_their_names():
    by_expression, by_object = (
        score_split(REFER, two_refs(), unit=unit, conventions=True) for unit in ("expression", "object")
    )

    for name in ("gIoU", "cIoU"):
        assert by_expression[f"{name}_by_object"] == by_object[name]
        assert by_object[f"{name}_by_expression"] == by_expression[name]
        assert f"{name}_by_expression" not in by_expression
        assert by_object[f"{name}_by_ref"] == by_expression[f"{name}_by_ref"]


def test_a_unit_has_the_weight_of_its_image_in_resamples():
    rows = [replace(one, item=item) for item in range(30) for one in two_refs()]

    low, high = score_split(REFER, rows, unit="ref", bootstrap=200)["gIoU_ci95"]

    assert low == pytest.approx(0.35) and high == pytest.approx(0.35)


def test_an_unknown_unit_names_those_that_are_known():
    with pytest.raises(UserError, match="unknown unit 'objects'; known are expression, object, ref. Did you mean"):
        score_split(REFER, two_refs(), unit="objects")


def test_expressions_without_ref_are_units_of_their_own():
    rows = [row(1, 1, 2, expression=0), row(2, 2, 2, expression=1)]

    assert score_split("ReasonSeg|val", rows, unit="ref", bootstrap=0)["gIoU"] == 0.75


def gres_rows():
    """Accepted target, wrongly rejected target with a good mask, right rejection, wrong acceptance of 4 pixels."""
    return [
        row(6, 8, 8, item=0),
        row(9, 10, 10, item=1, present=False),
        row(0, 5, 0, item=2, present=False),
        row(0, 4, 0, item=3),
    ]


def test_grefcoco_is_scored_by_all_conventions_under_their_names():
    scores = score_split("grefcoco|unc|val", gres_rows(), conventions=True, bootstrap=0)
    flagged = score_split("grefcoco|unc|val", gres_rows(), gres_reference=True, conventions=True, bootstrap=0)

    assert scores["gIoU"] == pytest.approx((0.6 + 0 + 1 + 0) / 4) == scores["gIoU_ReLA"]
    assert scores["cIoU"] == 6 / (10 + 10 + 4)
    assert scores["gIoU_reference"] == flagged["gIoU"] == pytest.approx((0.6 + 9 / 11 + 1 + 0) / 4)
    assert scores["cIoU_reference"] == flagged["cIoU"] == (6 + 9) / (10 + 11 + 4)
    assert scores["cIoU_ReLA"] == flagged["cIoU_ReLA"] == 6 / (10 + 11 + 4)
    assert (flagged["gIoU_ours"], flagged["cIoU_ours"]) == (scores["gIoU"], scores["cIoU"])
    assert "gIoU_ours" not in scores and "gIoU_reference" not in flagged


def test_muse_has_the_precision_of_its_pairs():
    rows = [question([[6, 0], [0, 9]], [10, 10], [10, 10]), question([[8, 0]], [10], [10, 5], item=1)]

    scores = score_split("MultiReasonSeg|val", rows, bootstrap=0)

    # pairs: 6/14, 9/11, 8/12, and a target without a prediction
    assert scores["P@0.5"] == 2 / 4 and scores["P@0.7"] == 1 / 4 and scores["P@0.9"] == 0


def test_tables_show_the_other_conventions_and_the_unit():
    report = Report({}, bootstrap=0, unit="ref")
    report.add(REFER, {"answer": "given", "expressions": "single"}, SplitCounts(rows=two_refs()))
    report.add("grefcoco|unc|val", {"answer": "given", "expressions": "single"}, SplitCounts(rows=gres_rows()))

    lines = [
        [cell.strip() for cell in line.replace("\\|", "/").split("|")[1:-1]] for line in report.table().splitlines()
    ]

    assert ["by expression", "refcoco/unc/val", "given", "42.5", "34.0"] in lines
    assert ["ReLA", "grefcoco/unc/val", "given", "40.0", "24.0"] in lines
    assert next(line[-1] for line in lines if line[:1] == ["refcoco/unc/val"]) == "ref"
    assert report.splits[REFER]["protocol"]["unit"] == "ref"


def test_reports_by_different_units_do_not_compare(tmp_path):
    for unit in ("expression", "ref"):
        report = Report({"protocol": {"answer": "given"}}, bootstrap=0, unit=unit)
        report.add(REFER, {"answer": "given", "expressions": "single"}, SplitCounts(rows=two_refs()))
        report.write(ReportFiles(tmp_path / f"{unit}.json"), report.table())

    with pytest.raises(UserError, match=r"counted differently: .*expression.json by expression, .*ref.json by ref"):
        differences_between(tmp_path / "expression.json", tmp_path / "ref.json")
    (giou,) = [
        one
        for one in differences_between(tmp_path / "ref.json", tmp_path / "ref.json", samples=10)
        if one.metric == "gIoU"
    ]
    assert np.isclose(giou.a, 0.35)


def test_a_report_about_muse_that_names_a_unit_compares_by_pairs(tmp_path):
    rows = [question([[6]], [10], [10], item=n) for n in range(3)]
    path = tmp_path / "a.json"
    report = Report({}, bootstrap=0, unit="ref")
    report.add("MultiReasonSeg|val", {"answer": "given"}, SplitCounts(rows=rows))
    assert report.splits["MultiReasonSeg|val"]["protocol"]["unit"] == "expression"
    report.splits["MultiReasonSeg|val"]["protocol"]["unit"] = "ref"
    report.write(ReportFiles(path), "")

    found = {one.metric: one.a for one in differences_between(path, path, samples=10)}

    assert found["gIoU"] == 6 / 14
