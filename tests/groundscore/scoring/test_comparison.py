"""Comparison of several reports: corrected p, effects, the number of images, and where a model was selected."""

import numpy as np
import pytest

from groundscore.errors import UserError
from groundscore.scoring.bootstrap import Terms, holm, images_to_show, influence, ratios, resample
from groundscore.scoring.comparison import compare_reports, differences_between
from groundscore.scoring.report import Report, ReportFiles, SplitCounts, read_report
from groundscore.scoring.tables import scores_table
from tests.groundscore.scoring.test_report import SPEC, noisy_rows, written


def test_p_values_are_adjusted_after_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == [0.03, 0.06, 0.06, 0.02]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_the_standard_error_from_influences_is_that_of_the_bootstrap():
    rng = np.random.default_rng(0)
    union = rng.integers(100, 2000, 300)
    terms = Terms(np.arange(300), (union * rng.random(300)).astype(np.int64), union)
    sums = terms.by_image(300)

    spread = np.std(ratios(resample(sums, 4000, 0), None))

    assert np.std(influence(sums[:, :2])) / np.sqrt(300) == pytest.approx(spread, rel=0.05)


def test_so_many_images_show_a_difference_in_four_of_five_comparisons():
    needed = images_to_show(0.05, 0.01)
    rng = np.random.default_rng(0)
    means = rng.normal(0.01, 0.05, (4000, needed)).mean(1)

    shown = means - 1.96 * 0.05 / np.sqrt(needed) > 0

    assert needed == 197  # ((1.95996 + 0.84162) * 5)^2
    assert shown.mean() == pytest.approx(0.8, abs=0.02)


def test_more_than_two_reports_are_compared_in_pairs_with_corrected_p(tmp_path):
    paths = [written(tmp_path / f"{name}.json", noisy_rows(seed)) for name, seed in zip("abc", (1, 2, 3))]
    paths.append(written(tmp_path / "better.json", noisy_rows(4, better=0.04)))

    found = [one for one in differences_between(*paths, samples=1000) if one.metric == "gIoU"]

    assert [one.first + one.second for one in found] == ["AB", "AC", "AD", "BC", "BD", "CD"]
    assert all(one.p_holm >= one.p for one in found)
    assert {one.second for one in found if one.p_holm < 0.05} == {"D"}
    (pair,) = differences_between(paths[0], paths[3], samples=1000)[:1]
    assert (pair.a, pair.b, pair.low, pair.high, pair.p) == (
        found[2].a,
        found[2].b,
        found[2].low,
        found[2].high,
        pair.p,
    )
    assert 0 < pair.images_for_a_point < 1000 and pair.effect > 0.3


def test_the_table_of_several_reports_has_a_column_for_each(tmp_path):
    paths = [written(tmp_path / f"{name}.json", noisy_rows(seed)) for name, seed in zip("abc", (1, 2, 3))]

    text = compare_reports(*paths, samples=100)

    heads = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "| metric" in line]
    assert heads[0][3:] == ["A", "B", "C"]
    assert heads[1][3:] == ["pair", "difference", "95 % interval", "effect", "p", "p (Holm)", "images", "for 1 point"]
    assert "C - A" in text and f"C: {paths[2]}" in text


def test_one_report_is_no_comparison(tmp_path):
    with pytest.raises(UserError, match="takes 2 to 26 reports, not 1"):
        differences_between(written(tmp_path / "a.json", noisy_rows(1)))


@pytest.mark.parametrize(
    "selected,noted",
    [(SPEC, True), ("refcoco|unc|testB||multirefcoco|unc|val", True), ("refcoco|unc|testA", False), (None, False)],
)
def test_selection_on_the_scored_split_is_recorded_and_shown(tmp_path, selected, noted):
    report = Report({"protocol": {"answer": "given"}}, bootstrap=0, selected_on=selected)
    report.add(SPEC, {"answer": "given", "expressions": "single"}, SplitCounts(rows=noisy_rows(1)))
    report.write(ReportFiles(tmp_path / "a.json"), report.table())

    text = report.table()
    content = read_report(tmp_path / "a.json")["splits"]

    assert ("SELECTED ON THE SCORED SPLIT" in text) is noted
    assert ("selected on" in text) is (selected is not None)
    assert content[SPEC]["protocol"].get("selected_on") == selected
    assert scores_table(content) == text
    compared = compare_reports(tmp_path / "a.json", tmp_path / "a.json", samples=10)
    assert ("SELECTED ON THE SCORED SPLIT" in compared) is noted
