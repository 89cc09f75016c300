"""chat.py --prompts: many questions from a file, an answer per line."""

import io
import json

import numpy as np
import pytest
from PIL import Image

import chat
from tests.tiny import tiny_model, write_answer
from utils.chat_batch import answer_all
from utils.chat_session import ChatSession
from utils.errors import UserError
from utils.prompt_files import read_prompts


@pytest.fixture
def folder(tmp_path):
    for name, seed in (("one.png", 1), ("two.png", 2)):
        pixels = np.random.default_rng(seed).integers(0, 256, (30, 44, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    return tmp_path


def write_lines(folder, *lines):
    path = folder / "questions.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def test_every_question_gets_a_line_and_a_bad_picture_costs_its_own_only(folder):
    path = write_lines(
        folder,
        {"image": "one.png", "prompt": "Where is the kite?", "id": "a"},
        "",
        {"image": "gone.png", "prompt": "Where?"},
        {"image": "two.png", "prompt": "Where is the ball?", "id": 7},
    )
    model, processor = tiny_model()
    write_answer(model, processor.tokenizer.encode("It is [SEG].", bos=False))
    out, log = io.StringIO(), io.StringIO()

    failed = answer_all(ChatSession(model, processor), read_prompts(path, None), folder / "out", out, log)

    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    assert failed == 1
    assert [(row["line"], row["id"]) for row in rows] == [(1, "a"), (3, None), (4, "7")]
    assert rows[0]["answer"] == "It is [SEG]." and len(rows[0]["targets"]) == 1
    assert "gone.png is missing" in rows[1]["error"] and "answer" not in rows[1]
    assert (folder / "out" / "two_1.json").exists()
    assert "3/3 questions" in log.getvalue()


def test_a_question_without_a_picture_is_about_the_given_one(folder):
    (line,) = read_prompts(write_lines(folder, {"prompt": " Where? "}), folder / "one.png")
    assert line.image == folder / "one.png" and line.prompt == "Where?"


@pytest.mark.parametrize(
    "line,message",
    [
        ("{", "line 1 is not valid JSON"),
        ("[1]", "line 1 is not an object"),
        ({"prompt": " ", "image": "one.png"}, 'needs "prompt"'),
        ({"prompt": "x", "image": 3}, '"image" is the path'),
        ({"prompt": "x"}, 'has no "image"'),
        ({"prompt": "x", "image": "one.png", "imgae": 1}, "'imgae' is not one of"),
        ({"prompt": "x", "image": "one.png", "id": []}, '"id" is a text'),
        ("", "has no questions"),
    ],
)
def test_a_bad_line_is_named_before_anything_is_answered(folder, line, message):
    path = write_lines(folder, line)
    with pytest.raises(UserError, match=message):
        chat.main(["--version", "nowhere", "--prompts", str(path), "--vis_save_path", str(folder / "out")])


def test_one_question_and_many_exclude_each_other(folder):
    with pytest.raises(UserError, match="not allowed with"):
        chat.main(["--version", "x", "--prompt", "a", "--image", "b", "--prompts", "c"])
