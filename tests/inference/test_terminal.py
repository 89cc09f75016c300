"""chat.py: what a person at the terminal sees."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import chat
from groundscore.errors import UserError
from inference.reply import Reply
from inference.session import ChatSession
from inference.terminal import AnswerWriter, Chat, legend
from tests.tiny import tiny_model, write_answer


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 44, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def talk(tmp_path, monkeypatch, capsys):
    """A function (lines, answer) -> (what was printed, the chat); a line that is an exception is raised."""

    def run(*lines, answer="Sure, [SEG] and [SEG]."):
        model, processor = tiny_model()
        write_answer(model, processor.tokenizer.encode(answer, bos=False))
        told = iter(lines)

        def read(prompt):
            line = next(told, EOFError())
            if isinstance(line, BaseException):
                raise line
            return line

        monkeypatch.setattr("builtins.input", read)
        conversation = Chat(ChatSession(model, processor), tmp_path / "out")
        conversation.run()
        return capsys.readouterr().out, conversation

    return run


def test_an_answer_is_printed_alone_with_numbered_targets(talk, photo, tmp_path):
    printed, conversation = talk(f"/image {photo}", "Where is the kite?", "/quit")

    assert "Sure, [SEG 1] and [SEG 2].\n" in printed
    assert "human" not in printed and "</s>" not in printed and "\x1b" not in printed
    assert (tmp_path / "out" / "photo_1.json").exists()
    assert len(conversation.history) == 1


def test_turns_add_up_until_a_reset_or_another_image(talk, photo):
    assert len(talk(f"/image {photo}", "one", "two")[1].history) == 2
    assert len(talk(f"/image {photo}", "one", "/reset", "two")[1].history) == 1
    assert len(talk(f"/image {photo}", "one", f"/image '{photo}'")[1].history) == 0


def test_mistakes_are_explained_and_the_chat_goes_on(talk, photo, tmp_path):
    printed, _ = talk(
        "a question without an image",
        "/image",
        "/image nowhere.png",
        f"/image {tmp_path}",
        "/jump",
        "/layer up",
        "/layer 77",
        "",
        f"/image {photo}",
        "Where?",
    )
    for part in (
        "no image yet",
        "needs the path",
        "nowhere.png is missing; /image PATH names",
        "folder",
        "unknown command",
        "'up'",
        "outside",
        "[SEG 1]",
    ):
        assert part in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("leave", ["exit", "quit", "QUIT", "/exit", "/Quit"])
def test_words_that_mean_a_command_are_no_question(talk, photo, leave):
    printed, conversation = talk(f"/IMAGE {photo}", "Help", "?", leave, "Where?")

    assert printed.count("/image PATH") == 3  # at the beginning, and of each help
    assert "44 × 30" in printed
    assert conversation.history == [] and not conversation.save_to.exists()


def test_a_misspelt_command_is_told_from_a_question(talk):
    assert "/imge: unknown command; /help lists them. Did you mean '/image'?" in talk("/imge a.jpg")[0]


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_help_fits_the_terminal(talk, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = talk("/help")[0].splitlines()
    assert max(map(len, lines)) <= columns
    assert any("/quit" in line for line in lines)


def test_the_layer_can_be_changed(talk, photo):
    printed, conversation = talk(f"/image {photo}", "/layer 1", "Where?")
    assert "layer: 1" in printed and conversation.session.layer == 1
    assert talk("/layer 1", "/layer")[1].session.layer is None


def test_a_conversation_can_be_saved_and_nothing_is_overwritten(talk, photo, tmp_path):
    mine = tmp_path / "mine.json"
    printed, _ = talk(
        "/save", f"/image {photo}", "Where?", "And now?", "/save", "/save", f"/save {mine}", f"/save '{mine}'"
    )

    assert "nothing to save yet" in printed
    saved = json.loads((tmp_path / "out" / "photo_conversation_1.json").read_text())
    assert [turn["prompt"] for turn in saved["turns"]] == ["Where?", "And now?"]
    assert all(Path(turn["record"]).exists() for turn in saved["turns"])
    assert (tmp_path / "out" / "photo_conversation_2.json").exists()
    assert json.loads(mine.read_text()) == saved
    assert "files are never overwritten" in printed


def test_a_full_disk_costs_a_record_and_not_the_conversation(talk, photo, tmp_path, monkeypatch):
    def full(path, content):
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("inference.reply._write_json", full)
    printed, conversation = talk(f"/image {photo}", "one", "two", "/save", f"/save {tmp_path / 'mine.json'}")

    assert printed.count("No space left on device") == 4
    assert len(conversation.history) == 2 and conversation.records == [None, None]
    assert list((tmp_path / "out").iterdir()) == [] and not (tmp_path / "mine.json").exists()


def test_control_c_interrupts_the_answer_and_not_the_program(talk, photo, monkeypatch):
    calls = []

    def once(self, text):
        calls.append(text)
        if len(calls) == 1:
            raise KeyboardInterrupt
        self.stream.write(text)

    monkeypatch.setattr(AnswerWriter, "write", once)
    printed, conversation = talk(f"/image {photo}", "one", KeyboardInterrupt(), "two")
    assert printed.count("interrupted") == 2
    assert len(conversation.history) == 1


def test_nothing_found_is_said(talk, photo):
    printed, _ = talk(f"/image {photo}", "Where?", answer="It is not there.")
    assert "Nothing was segmented" in printed


def test_on_a_terminal_targets_stand_out():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    writer = AnswerWriter(terminal)
    for piece in ("A [SEG]", " and [SEG]"):
        writer.write(piece)

    assert terminal.getvalue() == "A \x1b[1m[SEG 1]\x1b[0m and \x1b[1m[SEG 2]\x1b[0m"


def test_below_an_answer_are_area_score_and_layer_of_every_mask(talk, photo):
    reply = Reply("q", "[SEG] [SEG]", np.zeros((2, 10, 20), bool), [0.9, 0.5], [3, None], None, 5, True, 0.1)
    reply.masks[0, :5, :10] = True

    assert (reply.areas, reply.shares) == ([50, 0], [0.25, 0.0])
    assert legend(reply, None) == ["[SEG 1] 25.0 % of the image, score 90.0, layer 3", "[SEG 2] nothing found"]
    assert legend(reply, [(0, 0, 102), (255, 255, 0)])[1].startswith("\x1b[1;30;48;2;255;255;0m[SEG 2]\x1b[0m ")
    printed, _ = talk(f"/image {photo}", "Where?")
    assert re.search(r"\[SEG 1\] [\d.]+ % of the image, score [\d.]+, layer \d", printed)


def test_an_answer_cannot_command_the_terminal():
    stream = io.StringIO()
    AnswerWriter(stream).write("a\x1b]0;title\x07b\x9b31mc\u202e\td\n\u200d")
    assert stream.getvalue() == r"a\x1b]0;title\x07b\x9b31mc\u202e" + "\td\n\u200d"


@pytest.mark.parametrize(
    "flags,message",
    [
        (["--version", "x", "--prompt", "hi"], "--prompt needs --image"),
        (["--version", "x", "--prompt", " ", "--image", "y"], "--prompt is empty"),
        (["--version", "x", "--layer", "up"], "'up' is not last"),
        (["--version", "x", "--imgae", "y"], "did you mean --image"),
        (["--image", "y"], "--version"),
        (["--verison", "x"], "did you mean --version"),
        (["--version", "nowhere"], "--version nowhere: no such file"),
        (["--version", "./no/where"], "--version ./no/where: no such file"),
        (["--version", "model"], "--version model is no checkpoint"),
        (["--version", "miniature/wieghts"], "Did you mean 'weights'"),
        (["--version", "x", "--image", "nowhere.png", "--vis_save_path", "."], "nowhere.png"),
        (["--version", "x", "--vis_save_path", "eval.py/x"], "a file has this name"),
    ],
)
def test_wrong_flags_are_explained_before_anything_is_loaded(flags, message):
    with pytest.raises(UserError, match=message):
        chat.main(flags)


def test_hyphens_are_accepted():
    flags = chat.build_parser().parse(["--version", "x", "--vis-save-path", "a-b"])
    assert str(flags.vis_save_path) == "a-b"
