"""Which examples a visitor is offered."""

import json
from pathlib import Path

import pytest
from PIL import Image

from dashboard.examples import EXAMPLES, MOST, checkpoint_examples


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "hf" / "examples"
    folder.mkdir(parents=True)
    for name in ("cat.jpg", "street.jpg"):
        Image.new("RGB", (40, 30)).save(folder / name)
    Image.new("RGB", (40, 30)).save(tmp_path / "hf" / "private.jpg")
    return tmp_path / "hf"


def write(checkpoint: Path, *lines) -> None:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (checkpoint / "examples/questions.jsonl").write_text(text, encoding="utf-8")


def test_a_checkpoint_may_bring_its_own(checkpoint):
    write(checkpoint, {"image": "cat.jpg", "prompt": "Where is the cat?"}, {"image": "street.jpg", "prompt": "What?"})
    found = checkpoint_examples(str(checkpoint))
    assert [(each.image.name, each.question) for each in found] == [
        ("cat.jpg", "Where is the cat?"),
        ("street.jpg", "What?"),
    ]


def test_what_cannot_be_shown_is_left_out(checkpoint):
    secret = {"image": "../private.jpg", "prompt": "What is this?"}
    write(checkpoint, secret, "no json", {"image": "gone.jpg", "prompt": "?"}, {"image": "cat.jpg", "prompt": "Cat?"})
    assert [each.question for each in checkpoint_examples(str(checkpoint))] == ["Cat?"]
    write(checkpoint, *[{"image": "cat.jpg", "prompt": f"{number}"} for number in range(50)])
    assert len(checkpoint_examples(str(checkpoint))) == MOST


@pytest.mark.parametrize("lines", [(), ("no json",), ({"image": "gone.jpg", "prompt": "?"},)])
def test_without_any_they_are_the_shipped_ones(checkpoint, lines):
    assert checkpoint_examples(str(checkpoint)) == EXAMPLES
    write(checkpoint, *lines)
    assert checkpoint_examples(str(checkpoint)) == EXAMPLES
    assert checkpoint_examples(None) == EXAMPLES
