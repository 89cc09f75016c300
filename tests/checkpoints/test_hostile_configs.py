"""Attacks on the files beside the weights: one field at a time gets hostile values.

Whatever they hold, loading and answering end in a `UserError` of one line or work, within memory and time.
"""

import json
import random
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoints import export_reference, load_model, save_adapter, save_model
from checkpoints.digests import DIGESTS_FILE
from checkpoints.merging import probe
from groundscore.errors import UserError
from model.lora import add_lora
from tests.tiny import tiny_model

VALUES = (
    *(None, True, False, 0, 1, -1, 3, 10**6, 2 * 10**9, 10**30, 0.5, 1e308),
    *(float("nan"), float("inf"), "", "x" * 300, "7", "org/repo", [], [1], [10**9] * 3, {}, {"a": 1}),
)
MEGABYTES = 400  # that all attacks together may take beyond what one load takes


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Paths of all fields of nested dictionaries."""
    for key, inner in value.items():
        yield (*path, key)
        if isinstance(inner, dict):
            yield from places(inner, (*path, key))


def changed(value: dict, path: tuple, new: Any) -> dict:
    result = dict(value)
    result[path[0]] = new if len(path) == 1 else changed(value[path[0]], path[1:], new)
    return result


@pytest.fixture(scope="module")
def models(published, tmp_path_factory) -> dict[str, tuple[Path, dict]]:
    """Directories of every kind, and how each is loaded."""
    root = tmp_path_factory.mktemp("hostile")
    for system in ("UGround", "PixelLM"):
        save_model(*tiny_model(system), root / system)
    model, processor, _ = load_model(published.original, **published.flags(system="LISA"))
    export_reference(model, processor, root / "reference", vision_tower=str(published.clip))
    base = {"version": str(published.original), "vision_tower": str(published.clip)}
    add_lora(model, r=2, alpha=4, dropout=0.0, targets=["q_proj"])
    save_adapter(model, processor, root / "adapter", base=base | {"vision_pretrained": str(published.sam)})
    for name in ("llava", "llava-hf", "clip"):
        shutil.copytree(getattr(published, {"llava": "original", "llava-hf": "hf"}.get(name, name)), root / name)
    for digests in root.glob(f"*/{DIGESTS_FILE}"):
        digests.unlink()
    clip, sam = str(published.clip), str(published.sam)
    return {
        "UGround": (root / "UGround", {}),
        "PixelLM": (root / "PixelLM", {}),
        "reference": (root / "reference", {"vision_tower": clip}),
        "adapter": (root / "adapter", {}),
        "llava": (root / "llava", {"system": "UGround", "vision_tower": clip, "vision_pretrained": sam}),
        "llava-hf": (root / "llava-hf", {"system": "LISA", "vision_pretrained": sam}),
        "clip": (root / "clip", {"system": "LISA", "vision_pretrained": sam, "vision_tower": str(root / "clip")}),
    }


FILES = [
    ("UGround", "config.json"),
    ("UGround", "tokenizer_config.json"),
    ("UGround", "added_tokens.json"),
    ("PixelLM", "config.json"),
    ("reference", "config.json"),
    ("adapter", "config.json"),
    ("adapter", "adapter_config.json"),
    ("adapter", "base.json"),
    ("llava", "config.json"),
    ("llava-hf", "config.json"),
    ("clip", "config.json"),
]


def attack(models, published, kind: str, file: str, path: tuple, value: Any) -> str | None:
    """The complaint about one changed field, None where the model loads and answers."""
    directory, options = models[kind]
    original = (directory / file).read_text(encoding="utf-8")
    write(directory / file, changed(json.loads(original), path, value))
    try:
        version = published.original if kind == "clip" else directory
        model, processor, _ = load_model(version, **options)
        probe(model.eval(), processor)
    except UserError as error:
        return str(error)
    finally:
        (directory / file).write_text(original, encoding="utf-8")
    return None


def attacks_on(models, kind: str, file: str) -> list[tuple[tuple, Any]]:
    content = json.loads((models[kind][0] / file).read_text(encoding="utf-8"))
    return [(path, value) for path in places(content) for value in VALUES]


def run(models, published, kind: str, file: str, attacks) -> None:
    attack(models, published, kind, file, *attacks[0])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for path, value in attacks:
        try:
            said = attack(models, published, kind, file, path, value)
        except Exception as error:
            raise AssertionError(f"{kind}/{file}: {path} = {value!r:.60}") from error
        assert said is None or ("\n" not in said and len(said) < 1500), (path, value, said)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < MEGABYTES


@pytest.mark.parametrize("kind, file", FILES)
def test_some_fields_with_hostile_values(models, published, kind, file):
    run(models, published, kind, file, random.Random(f"{kind} {file}").sample(attacks_on(models, kind, file), 10))


@pytest.mark.slow
@pytest.mark.parametrize("kind, file", FILES)
def test_many_fields_with_hostile_values(models, published, kind, file):
    """300 attacks a file; all 22,000 would take an hour."""
    attacks = attacks_on(models, kind, file)
    run(models, published, kind, file, random.Random(2).sample(attacks, min(300, len(attacks))))


@pytest.mark.parametrize(
    "path, value, message",
    [
        (("text_config", "num_hidden_layers"), 10**6, "text_config: num_hidden_layers should be a whole number"),
        (("text_config", "num_hidden_layers"), 4, "language_model.layers has 3 layers, where config.json says 4"),
        (("text_config", "hidden_size"), 64, "tensors differ in shape"),
        (("text_config", "rope_parameters", "rope_type"), "evil", "rope_parameters should be a dictionary of positive"),
        (("text_config", "model_type"), "mistral", "text_config is of type 'mistral', not llama"),
        (("sam_config", "vision_config", "image_size"), 4096, "prompt_encoder_config is for images of 64 pixels"),
        (("vision_config", "hidden_act"), "org/repo", "hidden_act should be one of silu, gelu"),
        (("mode",), 7, "mode should be one of 1, 2, 3, it is 7"),
        (("map_geometry",), "other", "map_geometry should be one of fit, reference"),
        (("map_loss_layers",), ["all"], "map_loss_layers should be one of chosen, all"),
        (("eval_legacy",), "false", "eval_legacy should be true or false"),
        (("read_t_pos",), 2, "read_t_pos should be a number from 0 to 1"),
        (("seg_token_ids",), [2 * 10**9], "seg_token_ids should be a list"),
        (("seg_token_ids",), [5], r"ids \[5, \d+\] of \[SEG\] and \[REJ\] are not those of the tokenizer"),
        (("auto_map",), {"AutoModel": "code.Model"}, "auto_map names code of its own"),
        (("quantization_config",), {"load_in_4bit": True}, "quantization_config says that the weights are quantised"),
        (("_attn_implementation",), "org/repo", "this program computes attention with sdpa or flash_attention_2"),
        (("text_config", "attn_implementation"), "eager", "attn_implementation is 'eager'"),
        (("surprise",), 1, "unknown key 'surprise'; is it of a newer version"),
    ],
)
def test_what_is_said_of_a_configuration(models, published, path, value, message):
    with pytest.raises(UserError, match=message):
        raise UserError(attack(models, published, "UGround", "config.json", path, value))


def test_labels_by_the_milliard_are_not_made(models, published):
    assert attack(models, published, "UGround", "config.json", ("text_config", "num_labels"), 10**9) is None


@pytest.mark.parametrize(
    "file, path, value, message",
    [
        ("added_tokens.json", ("more",), 2 * 10**9, "token 'more' has id 2000000000; a token is a text"),
        ("added_tokens.json", ("more",), 9_000_000, "the weights have 364 rows; it is the tokenizer of another model"),
        ("tokenizer_config.json", ("added_tokens_decoder",), {"x": "y"}, "token 'y' has id 'x'"),
        ("tokenizer_config.json", ("tokenizer_class",), "EvilTokenizer", "only the tokenizer of a LLaMA"),
        ("tokenizer_config.json", ("auto_map",), {"a": "b"}, "auto_map names code"),
        ("tokenizer_config.json", ("tokens_per_target",), "1", "tokens_per_target should be a number"),
    ],
)
def test_what_is_said_of_a_tokenizer(models, published, file, path, value, message):
    with pytest.raises(UserError, match=message):
        raise UserError(attack(models, published, "UGround", file, path, value))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_said(tmp_path, bad):
    model, processor = tiny_model("LISA")
    with torch.no_grad():
        model.language_model.norm.weight[3] = bad
    save_model(model, processor, tmp_path / "bad")
    with pytest.raises(UserError, match=r"1 tensors contain NaN or infinity \(language_model.norm.weight\)"):
        load_model(tmp_path / "bad")


def test_weights_that_are_too_large_for_fp16(tmp_path):
    model, processor = tiny_model("LISA")
    with torch.no_grad():
        model.lm_head.weight[0, 0] = 1e6
    save_model(model, processor, tmp_path / "large")
    with pytest.raises(UserError, match="too large for fp16"):
        load_model(tmp_path / "large", precision="fp16")


@pytest.mark.parametrize("name", ["lm_head.weight", "language_model.embed_tokens.weight"])
@pytest.mark.parametrize("shape", [(), (364,)])
def test_tables_of_words_have_two_dimensions(tmp_path, name, shape):
    model, processor = tiny_model("LISA")
    save_model(model, processor, tmp_path / "bad")
    (tmp_path / "bad" / DIGESTS_FILE).unlink()
    file = tmp_path / "bad" / "model.safetensors"
    save_file(load_file(file) | {name: torch.zeros(shape)}, file)
    with pytest.raises(UserError, match=f"{name} is .*, not a table of two dimensions"):
        load_model(tmp_path / "bad")
