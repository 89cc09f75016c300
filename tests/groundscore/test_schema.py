"""Declared shapes of our own files."""

import json
import os

import pytest

from groundscore.schema import (
    DamagedFile,
    list_of,
    mapping,
    number,
    optional,
    parse,
    read_json,
    record,
    set_aside,
    text,
    whole,
)

SHAPE = record({"step": whole(0), "score": optional(number)}, {"names": list_of(text), "files": mapping(whole(1))})


def test_what_has_the_shape_is_returned():
    value = {"step": 3, "score": 0.5, "names": ["a"], "files": {"b": 1}}
    assert parse(json.dumps(value), SHAPE, "file") == value
    assert parse(b'{"step": 0, "score": null}', SHAPE, "file") == {"step": 0, "score": None}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "Expecting value"),
        ("[]", "the whole should be an object"),
        ("{}", "step is missing"),
        ('{"step": "3", "score": 1}', "step should be a whole number, and is a str"),
        ('{"step": true, "score": 1}', "step should be a whole number, and is a bool"),
        ('{"step": 3.0, "score": 1}', "step should be a whole number, and is a float"),
        ('{"step": -1, "score": 1}', "step is out of range"),
        ('{"step": 1e999, "score": 1}', "step should be a whole number"),
        ('{"step": 3, "score": NaN}', "score is not finite"),
        ('{"step": 3, "score": 1' + "0" * 400 + "}", "score is out of range"),
        ('{"step": 3, "score": 1' + "0" * 5000 + "}", "digits"),
        ('{"step": 3, "score": 1, "other": 1}', "other is unknown"),
        ('{"step": 3, "score": 1, "names": [1]}', r"names\[0\] should be text, and is a int"),
        ('{"step": 3, "score": 1, "files": {"b\\n": 0}}', r"files.b\\n is out of range"),
        ("[" * 100_000, "recursion|nested"),
        (b"\xff\xfe", "decode"),
    ],
)
def test_what_has_not_is_one_line_that_names_the_file_and_the_key(content, complaint):
    with pytest.raises(DamagedFile, match=f"^runs/a/scores.json is damaged .*({complaint})") as error:
        parse(content, SHAPE, "runs/a/scores.json")
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_what_is_no_file_is_damaged(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DamagedFile, match="not a file"):
        read_json(tmp_path / "pipe", SHAPE)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(DamagedFile, match="not a file"):
        read_json(tmp_path / "loop", SHAPE)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "nothing", SHAPE)


def test_a_damaged_file_is_moved_aside_under_a_free_name(tmp_path):
    for content in ("one", "two"):
        (tmp_path / "scores.json").write_text(content)
        set_aside(tmp_path / "scores.json")
    assert (tmp_path / "scores.json.damaged").read_text() == "one"
    assert (tmp_path / "scores.json.damaged.2").read_text() == "two"
