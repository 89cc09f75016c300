"""The tables at the beginning of a run."""

from types import SimpleNamespace

import numpy as np

from training.arguments import parse_arguments
from training.summaries import WIDTH, describe_data, describe_flags, describe_parameters, table
from training.trainable import ParameterCount


def test_flags_say_what_was_given_and_leave_out_what_has_no_effect():
    config = parse_arguments(["--lr", "0.001", "--dataset", "refer_seg||vqa", "--sample_rates", "3,1", "--no_eval"])
    lines = describe_flags(config)
    text = " ".join(lines)
    assert "lr* 0.001" in text and "no_eval* on" in text
    assert "beta1 0.9" in text and "beta1*" not in text
    assert "refer_seg_data refclef" in text and "sem_seg_data" not in text
    assert ", resume " not in text  # empty
    assert max(map(len, lines)) <= WIDTH


def test_columns_align_and_the_sum_stands_below_a_rule():
    lines = table(("part", "all"), [("a", "1"), ("longer", "1,000"), ("sum", "1,001")], totals=1)
    assert lines == [
        "  part      all",
        "  ──────  ─────",
        "  a           1",
        "  longer  1,000",
        "  ──────  ─────",
        "  sum     1,001",
    ]


def family(name, **sizes):
    return SimpleNamespace(name=name, sizes=lambda: sizes)


def test_data_are_counted_by_family_and_set():
    mixture = SimpleNamespace(
        families=[family("refer_seg", refcoco=1200, grefcoco=300), family("custom", custom=7)],
        probabilities=np.array([0.75, 0.25]),
    )
    rows = [line.split() for line in describe_data(mixture, 1000, {"ReasonSeg|val": 200})]
    assert ["refer_seg", "75.0", "%", "750", "1,500"] in rows
    assert ["refcoco", "1,200"] in rows
    assert ["custom", "25.0", "%", "250", "7"] in rows and ["custom", "7"] not in rows
    assert ["all", "100", "%", "1,000", "1,507"] in rows
    assert ["ReasonSeg|val", "200"] in rows


def test_parameters_are_summed():
    rows = [
        line.split()
        for line in describe_parameters([ParameterCount("sam", 3000, 0), ParameterCount("policy", 1000, 500)])
    ]
    assert ["sam", "3.00K", "-", "-"] in rows
    assert ["policy", "1.00K", "500", "50.00", "%"] in rows
    assert ["all", "4.00K", "500", "12.50", "%"] in rows
