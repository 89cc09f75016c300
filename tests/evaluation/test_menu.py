"""The menu of benchmarks, and what is typed into it."""

import pytest

from evaluation.menu import choose_benchmarks, chosen_benchmarks
from groundscore.errors import UserError
from groundscore.splits import BENCHMARKS


def test_the_menu_begins_with_the_reference_s_33_entries_in_its_order():
    assert BENCHMARKS[:4] == ("ReasonSeg|val", "ReasonSeg|test_overall", "ReasonSeg|test_shortquery",
                              "ReasonSeg|test_longquery")  # fmt: skip
    assert BENCHMARKS[4:7] == ("refcocog|umd|val", "refcocog|umd|test", "refcoco+|unc|val")
    assert BENCHMARKS[12:14] == ("multirefcocog|umd|val", "multirefcocog|umd|test")
    assert BENCHMARKS[20:28] == (
        *(f"MultiReasonSeg|{split}" for split in ("val", "test", "test_less", "test_many")),
        *(f"grefcoco|unc|{split}" for split in ("val", "testA", "testB")),
        "refzom|final|test",
    )
    assert BENCHMARKS[31:33] == ("fpReasonSeg|val", "fpReasonSeg|test")


@pytest.mark.parametrize(
    "text,expected",
    [
        ("0", [0]),
        ("0-2", [0, 1, 2]),
        ("4, 2,0-1, 2", [0, 1, 2, 4]),
        ("all", list(range(len(BENCHMARKS)))),
    ],
)
def test_numbers_and_ranges_choose(text, expected):
    assert chosen_benchmarks(text) == [BENCHMARKS[number] for number in expected]


def test_a_split_may_be_typed_as_it_is():
    assert chosen_benchmarks("1, custom|mine||ReasonSeg|val") == [BENCHMARKS[1], "custom|mine", "ReasonSeg|val"]


@pytest.mark.parametrize("text", ["", "99", "3-1", "x", "1-", "-1"])
def test_anything_else_is_refused(text):
    with pytest.raises(UserError):
        chosen_benchmarks(text)


def test_a_choice_is_asked_for_until_it_is_confirmed():
    shown, answers = [], iter(["77", "0-1", "n", "2", "y"])
    assert choose_benchmarks(lambda question: next(answers), shown.append) == BENCHMARKS[2]
    assert any("outside 0-" in line for line in shown)


def test_an_end_of_input_is_an_error():
    def closed(question):
        raise EOFError

    with pytest.raises(UserError, match="--val_dataset"):
        choose_benchmarks(closed, lambda line: None)
