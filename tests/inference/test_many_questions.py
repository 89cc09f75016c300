"""chat.py --prompts: many questions from a file, an answer per line."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

import chat
from groundscore.annotations.images import read_image
from groundscore.errors import UserError
from inference.many_questions import answer_all, read_prompts
from inference.session import ChatSession
from tests.tiny import tiny_model, write_answer


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


def test_every_question_gets_a_line_and_a_bad_image_costs_its_own_only(folder):
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


def test_a_question_without_a_image_is_about_the_given_one(folder):
    (line,) = read_prompts(write_lines(folder, {"prompt": " Where? "}), folder / "one.png")
    assert line.image == folder / "one.png" and line.prompt == "Where?"


@pytest.mark.parametrize(
    "line,message",
    [
        ("{", "is not valid JSON"),
        ("[" * 10**5, "is not valid JSON"),
        ("[1]", "is not an object"),
        ({"prompt": " ", "image": "one.png"}, 'needs "prompt"'),
        ({"prompt": "\ud800", "image": "one.png"}, 'needs "prompt"'),
        ({"prompt": "x", "image": 3}, 'needs as "image"'),
        ({"prompt": "x", "image": "a\x00"}, 'needs as "image"'),
        ({"prompt": "x"}, 'has no "image"'),
        ({"prompt": "x", "image": "one.png", "imgae": 1}, "'imgae', which is not one of"),
        ({"prompt": "x", "image": "one.png", "id": []}, 'needs as "id"'),
    ],
)
def test_a_bad_line_costs_itself_only(folder, line, message):
    good = {"image": "one.png", "prompt": "Where?", "id": "good"}
    path = write_lines(folder, good, line, good)
    model, processor = tiny_model()
    out = io.StringIO()

    failed = answer_all(ChatSession(model, processor), read_prompts(path, None), folder / "out", out, io.StringIO())

    rows = [json.loads(row) for row in out.getvalue().splitlines()]
    assert failed == 1 and [row["line"] for row in rows] == [1, 2, 3]
    assert "questions.jsonl, line 2 " in rows[1]["error"] and message in rows[1]["error"]
    assert all("answer" in row for row in (rows[0], rows[2]))


@pytest.mark.parametrize("line,message", [("{", "line 1 is not valid JSON"), ("\n", "has no questions")])
def test_a_file_that_asks_nothing_is_an_error_before_the_model_is_loaded(folder, line, message):
    path = write_lines(folder, line)
    with pytest.raises(UserError, match=message):
        chat.main(["--version", "nowhere", "--prompts", str(path), "--vis_save_path", str(folder / "out")])


def test_files_of_windows_are_read_and_only_newlines_end_a_line(folder):
    path = folder / "questions.jsonl"
    lines = ['{"image": "one.png", "prompt": "Where\u2028is it\x85?"}', '{"image": "two.png", "prompt": "b"}']
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert [line.prompt for line in read_prompts(path, None)] == ["Where\u2028is it\x85?", "b"]


def test_questions_about_one_image_are_answered_together_and_as_if_each_alone(folder):
    texts = ["Where is the kite?", "What is the red ball near the house?", "boat?"]
    path = write_lines(folder, *({"image": "one.png", "prompt": text} for text in texts))
    model, processor = tiny_model()
    session, generate, rows = ChatSession(model, processor, max_new_tokens=9), model.generate, []
    alone = [session.ask(read_image(folder / "one.png"), (), text) for text in texts]
    model.generate = lambda batch, **options: rows.append(int(batch.branches.max())) or generate(batch, **options)
    out = io.StringIO()

    assert answer_all(session, read_prompts(path, None), folder / "out", out, io.StringIO()) == 0

    assert rows == [3]
    answers = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [answer["answer"] for answer in answers] == [reply.text for reply in alone]
    assert [[t["pixels"] for t in answer["targets"]] for answer in answers] == [
        [int(mask.sum()) for mask in reply.masks] for reply in alone
    ]


def test_where_memory_ends_half_the_questions_are_answered_at_a_time(folder, caplog):
    model, processor = tiny_model()
    session, generate, sizes = ChatSession(model, processor, max_new_tokens=4), model.generate, []
    image = read_image(folder / "one.png")
    expected = [reply.text for reply in session.ask_each(image, ["a", "b", "c"])]

    def in_small_memory(batch, **options):
        sizes.append(int(batch.branches.max()))
        if sizes[-1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(batch, **options)

    model.generate, most = in_small_memory, 1
    assert [reply.text for reply in session.ask_each(image, ["a", "b", "c"])] == expected
    assert sizes == [3, 1, 2, 1, 1]
    most = 0
    with pytest.raises(UserError, match="out of memory: .*--max_new_tokens"):
        session.ask(image, (), "a")


def test_a_full_disk_leaves_no_empty_record(folder, monkeypatch):
    model, processor = tiny_model()
    write_answer(model, processor.tokenizer.encode("It is [SEG].", bos=False))
    path = write_lines(folder, {"image": "one.png", "prompt": "Where?"})
    monkeypatch.setattr(
        "inference.reply._write_json", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    out = io.StringIO()
    assert answer_all(ChatSession(model, processor), read_prompts(path, None), folder / "out", out, io.StringIO()) == 1
    assert "No space left on device" in json.loads(out.getvalue())["error"]
    assert not list((folder / "out").iterdir())


def test_one_question_and_many_exclude_each_other(folder):
    with pytest.raises(UserError, match="not allowed with"):
        chat.main(["--version", "x", "--prompt", "a", "--image", "b", "--prompts", "c"])
