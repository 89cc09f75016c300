"""Prompts become the ids and labels that published checkpoints were trained on.

TOKENIZATION_CASES names another file of cases of the same form.
"""

import importlib.util
import json
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from dataloaders.batching.collate import Collator, Processor
from dataloaders.batching.conversation import SYSTEM_TEXT, collapse_targets, conversation_text, expand_targets
from dataloaders.batching.tokenization import GroundingTokenizer
from dataloaders.sample import Sample, Turn
from groundscore.errors import UserError
from model.backbones.llava import LlavaPreparation
from model.decoders.sam import SamPreparation

CASES_PATH = Path(os.environ.get("TOKENIZATION_CASES") or Path(__file__).parent / "reference" / "tokenization.json")
CASES = json.loads(CASES_PATH.read_text(encoding="utf-8"))
PLACEHOLDER = "<image>\n"


def vocabulary() -> bytes:
    package = importlib.util.find_spec("mistral_common")
    if package is None:
        pytest.skip("the vocabulary of the cases is in mistral-common: pip install --no-deps mistral-common")
    return (Path(package.origin).parent / "data" / "tokenizer.model.v1").read_bytes()


def grounding_tokenizer(tokens_per_target: int = 1) -> GroundingTokenizer:
    tokenizer = GroundingTokenizer(vocabulary())
    tokenizer.add_grounding_tokens(tokens_per_target)
    return tokenizer


def turns_of(case: dict) -> tuple[Turn, ...]:
    (question, answer), *later = case["turns"]
    assert question.startswith(PLACEHOLDER)
    turns = [(question.removeprefix(PLACEHOLDER), answer), *later]
    count = case["tokens_per_target"]
    return tuple(
        Turn(collapse_targets(question, count), collapse_targets(answer, count) if answer else None)
        for question, answer in turns
    )


def sample_of(turns: tuple[Turn, ...]) -> Sample:
    kinds = re.findall(r"\[(SEG|REJ)\]", " ".join(turn.answer or "" for turn in turns))
    masks = np.stack([np.full((4, 4), kind == "SEG", np.uint8) for kind in kinds] or [np.zeros((4, 4), np.uint8)])
    image = np.zeros((4, 4, 3), np.uint8)
    return Sample(Path("case.png"), image, [turns], masks[: len(kinds)], None, "parity", "cases")


@pytest.mark.parametrize("number", range(len(CASES["cases"])))
def test_ids_and_labels_are_those_of_the_reference(number):
    case = CASES["cases"][number]
    tokenizer = grounding_tokenizer(case["tokens_per_target"])
    processor = Processor(tokenizer, LlavaPreparation(8, (1, 1)), SamPreparation(8))

    batch = Collator(processor, packed=number % 2 == 0, max_length=None)([sample_of(turns_of(case))])

    labels = [-100] * batch.input_ids.numel()
    for position, label in zip(batch.label_positions.tolist(), batch.label_ids.tolist()):
        labels[position + 1] = label
    assert batch.input_ids[0].tolist() == case["input_ids"]
    assert labels == case["labels"]


def test_the_prompt_is_the_chat_format_of_llava():
    turns = (Turn("Who is it?", "A cat."), Turn("Where?", None))

    text = conversation_text(turns)

    assert text.prefix == f"{SYSTEM_TEXT} USER: <im_start>"
    assert [turn.asked + turn.answered for turn in text.turns] == [
        "<im_end>\nWho is it? ASSISTANT: A cat.</s>",
        "USER: Where? ASSISTANT:",
    ]
    assert CASES["system"] == SYSTEM_TEXT


def test_a_template_decides_the_system_text_alone():
    turns = (Turn("Who is it?", None),)
    human, user = (conversation_text(turns, conv_type=name) for name in ("llava_v1", "vicuna_v1"))
    assert user.prefix == human.prefix.replace("human", "user") != human.prefix
    assert user.turns == human.turns
    tokenizer = grounding_tokenizer(1)
    batch = Collator(Processor(tokenizer, LlavaPreparation(8, (1, 1)), SamPreparation(8), "vicuna_v1"))(
        [sample_of(turns)]
    )
    prefix = tokenizer.encode(user.prefix)
    assert batch.input_ids[0, : len(prefix)].tolist() == prefix


@pytest.mark.parametrize("count", [1, 2, 6, 12])
def test_any_number_of_tokens_can_stand_for_a_target(count):
    tokenizer = grounding_tokenizer(count)

    ids = tokenizer.encode(expand_targets("[SEG], [REJ].", count), bos=False)

    assert tokenizer.seg_token_ids == tuple(range(32000, 32000 + count))
    assert tokenizer.rej_token_ids == tuple(range(32000 + count, 32000 + 2 * count))
    assert (tokenizer.im_start_id, tokenizer.im_end_id) == (32000 + 2 * count, 32001 + 2 * count)
    assert len(tokenizer) == 32002 + 2 * count
    assert tuple(ids[:count]) == tokenizer.seg_token_ids
    assert collapse_targets(tokenizer.decode(ids), count) == "[SEG], [REJ]."


def test_white_space_is_kept_beside_the_end_of_an_answer_and_lost_beside_a_target():
    tokenizer = grounding_tokenizer()

    assert tokenizer.encode("a </s>", bos=False) == [*tokenizer.encode("a ", bos=False), tokenizer.eos_token_id]
    assert tokenizer.encode("a \n[SEG]", bos=False) == tokenizer.encode("a[SEG]", bos=False)


def test_decoding_restores_what_encoding_kept():
    tokenizer = grounding_tokenizer()

    assert tokenizer.decode(tokenizer.encode("Sure, it is [SEG]. The left one is [REJ], friend.</s>")) == (
        "Sure, it is [SEG]. The left one is [REJ], friend."
    )
    assert tokenizer.decode([1, -200, 32000, 99999, 2]) == "[SEG]"


@pytest.mark.parametrize("count", [1, 6])
def test_a_saved_tokenizer_is_read_back_and_by_transformers(tmp_path, count):
    tokenizer = grounding_tokenizer(count)
    tokenizer.save(tmp_path)

    again = GroundingTokenizer.from_directory(tmp_path)
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(tmp_path)

    assert again.added_tokens == tokenizer.added_tokens
    assert again.tokens_per_target == count
    assert again.add_grounding_tokens(count) == []
    assert {token: theirs.convert_tokens_to_ids(token) for token in tokenizer.added_tokens} == tokenizer.added_tokens
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (1, 2, 0)
    assert len(theirs) == len(tokenizer)
    assert theirs("It is [SEG0]" if count > 1 else "It is [SEG]").input_ids[-1] == tokenizer.seg_token_ids[0]


def test_a_tokenizer_survives_pickling():
    tokenizer = pickle.loads(pickle.dumps(grounding_tokenizer(6)))

    assert tokenizer.encode("a [SEG3]") == grounding_tokenizer(6).encode("a [SEG3]")


def write_slow_directory(directory: Path, added: dict, config: dict) -> None:
    (directory / "tokenizer.model").write_bytes(vocabulary())
    (directory / "added_tokens.json").write_text(json.dumps(added))
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    (directory / "special_tokens_map.json").write_text(json.dumps({"bos_token": "<s>", "pad_token": "<unk>"}))


def test_a_directory_of_the_slow_tokenizer_is_read(tmp_path):
    write_slow_directory(
        tmp_path,
        {"[SEG]": 32000, "[REJ]": 32001, "<im_start>": 32002, "<im_end>": 32003},
        {"added_tokens_decoder": {"0": {"content": "<unk>"}, "2": {"content": "</s>"}, "32000": {"content": "[SEG]"}}},
    )

    tokenizer = GroundingTokenizer.from_directory(tmp_path)

    assert tokenizer.seg_token_ids == (32000,)
    assert tokenizer.add_grounding_tokens() == []


def test_new_tokens_follow_those_that_a_directory_brings(tmp_path):
    write_slow_directory(tmp_path, {"<image>": 32000, "<pad>": 32001}, {})

    tokenizer = GroundingTokenizer.from_directory(tmp_path)

    assert tokenizer.add_grounding_tokens() == ["[SEG]", "[REJ]", "<im_start>", "<im_end>"]
    assert tokenizer.seg_token_ids == (32002,)


def test_a_directory_without_a_sentencepiece_model_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")

    with pytest.raises(UserError, match=r"tokenizer\.model"):
        GroundingTokenizer.from_directory(tmp_path)


def test_a_directory_with_another_file_for_a_model_is_refused(tmp_path):
    for content, message in (
        (b"version https://git-lfs.github.com/spec/v1", "tokenizer.model is a Git LFS pointer"),
        (b"no vocabulary", "tokenizer.model is not a SentencePiece model"),
        (b"", "tokenizer.model is empty"),
    ):
        (tmp_path / "tokenizer.model").write_bytes(content)
        with pytest.raises(UserError, match=message):
            GroundingTokenizer.from_directory(tmp_path)


@pytest.mark.parametrize(
    "added, message",
    [({"\ud800": 32005}, "a token is a text"), ({f"<{i}>": 32005 + i for i in range(10001)}, "10001 added tokens")],
)
def test_added_tokens_of_no_tokenizer_are_refused(tmp_path, added, message):
    write_slow_directory(tmp_path, added, {})

    with pytest.raises(UserError, match=message):
        GroundingTokenizer.from_directory(tmp_path)


def test_a_target_token_that_is_not_one_id_is_an_error(tmp_path):
    write_slow_directory(tmp_path, {}, {})

    with pytest.raises(UserError, match=r"\[SEG\] is not one id"):
        _ = GroundingTokenizer.from_directory(tmp_path).seg_token_ids


def test_an_added_token_that_takes_the_id_of_a_piece_is_refused(tmp_path):
    write_slow_directory(tmp_path, {"[SEG]": 500}, {})

    with pytest.raises(UserError, match="another piece"):
        GroundingTokenizer.from_directory(tmp_path)
