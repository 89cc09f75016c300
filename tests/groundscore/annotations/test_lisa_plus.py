"""LISA++'s marks become targets in answers and words in questions."""

import json

import pytest

from groundscore.annotations.lisa_plus import PlusFile, marks_to_targets, marks_to_words, split_dialogue
from groundscore.errors import UserError

VALID = {"380", "348", "7"}


@pytest.mark.parametrize(
    "text,replaced,ids",
    [
        ("The answer is [<380| remote>, <348| remote>].", "The answer is [SEG] and [SEG].", "380 348"),
        ("see <380|dog> and <9|cat> here", "see [SEG] and  here", "380"),
        ("[pizza <380>, pizza <348>, pizza <7>] ok", "[SEG], [SEG] and [SEG] ok", "380 348 7"),
        ("《380|a》 b 《5|c》", "[SEG] b ", "380"),
        ("plain [note] text", "plain  text", ""),
        ("person <380> standing", "person <380> standing", ""),
        # The reference took these ids in the order 380, 348, 7, other than that of their tokens.
        ("<7| a> then [<380| b>] then 《348|c》", "[SEG] then [SEG] then [SEG]", "7 380 348"),
        ("[380|a, 7|b]", "[SEG] and [SEG]", "380 7"),
        ("a literal [SEG]", "a literal ", ""),
    ],
)
def test_marks_become_targets_in_the_order_of_their_masks(text, replaced, ids):
    assert marks_to_targets(text, VALID) == (replaced, ids.split())


@pytest.mark.parametrize(
    "text,words",
    [
        ("Is <380| remote> on [<348|table>, <9|cat>]?", "Is remote on table and cat?"),
        ("[pizza <380>] or 《7|cup》", "pizza or cup"),
        ("plain [note] text", "plain [note] text"),
        ("say [SEG] or [REJ]", "say  or "),
    ],
)
def test_questions_keep_the_words_and_never_hold_a_target(text, words):
    assert marks_to_words(text) == words


@pytest.mark.parametrize(
    "text,pairs",
    [
        ("<person>: q1 <robot>: a1 <person>: q2", [("q1", "a1")]),
        ("<person>: q1 <person>: q2 <robot>: a2", [("q2", "a2")]),
        ("<person>: q1 <robot>: a1 <robot>: b1 <person>: q2 <robot>: a2", [("q1", "a1 b1"), ("q2", "a2")]),
        ("<robot>: hello <person>: q1 <robot>: a1", [("q1", "a1")]),
        ("no turns", []),
    ],
)
def test_dialogues_are_cut_into_questions_with_answers(text, pairs):
    assert split_dialogue(text) == pairs


@pytest.mark.parametrize(
    "change,message",
    [
        ({"ID": ["348", "99"]}, "entry 0: 'ID' names mask '99'"),
        ({"points": {"348": [[1, 2], [3, 4], [5, 6]]}, "ID": ["348"]}, "mask '348' has no 'label name'"),
        ({"points": {"348": "x"}}, "entry 0, mask '348': a mask is a list"),
        ({"img_path": "/etc/passwd"}, "'img_path' is an absolute path, '.etc.passwd'"),
        ({"English Question": ""}, "'English Question' should be text"),
    ],
)
def test_bad_entries_of_lisa_plus_are_named(data_root, change, message):
    path = data_root / "reason_seg_plus/LISA_Plus_Instance_Seg.json"
    (entry,) = json.loads(path.read_text())
    path.write_text(json.dumps([{**entry, **change}]))

    with pytest.raises(UserError, match=message):
        PlusFile(data_root, "instance_seg")
