"""What eval.py and chat.py accept as a model."""

import argparse
import sys
from types import SimpleNamespace

import pytest

from groundscore.errors import UserError
from inference.model_flags import add_model_flags, load_flagged_model
from tests.tiny import tiny_model
from utils.flags import FlagParser


@pytest.fixture
def load(monkeypatch):
    """A function (argv) -> what `load_model` was asked for."""
    asked = {}

    def load_model(path, **options):
        asked.update(options, path=path)
        return (*tiny_model(), None)

    monkeypatch.setitem(sys.modules, "checkpoints", SimpleNamespace(load_model=load_model))

    def run(*argv):
        parser = FlagParser(prog="test")
        add_model_flags(parser)
        load_flagged_model(parser.parse(["--version", "somewhere", *argv]))
        return argparse.Namespace(**asked)

    return run


def test_the_system_is_found_in_any_case(load):
    assert load("--model_key", "uground").system == "UGround"
    assert load().system is None
    with pytest.raises(UserError, match="unknown system"):
        load("--model_key", "SAM")


def test_a_cpu_computes_in_fp32_unless_told_otherwise(load):
    assert load("--device", "cpu").precision == "fp32"
    assert load("--device", "cpu", "--precision", "bf16").precision == "bf16"


def test_a_consolidated_file_and_quantisation_are_passed_on(load):
    asked = load("--weight", "merge.bin", "--lora_alpha", "32", "--load-in-4bit")
    assert (asked.weight, asked.lora_alpha, asked.bits) == ("merge.bin", 32, 4)
    assert load("--load_in_8bit").bits == 8
    with pytest.raises(UserError, match="load_in_8bit"):
        load("--load_in_8bit", "--load_in_4bit")


def test_by_default_nothing_is_quantised(load):
    assert (load().weight, load().bits) == (None, None)


def test_settings_of_the_checkpoint_can_be_overridden(load):
    asked = load("--conv_type", "vicuna_v1", "--map-geometry", "reference")
    assert asked.overrides == {"conv_type": "vicuna_v1", "map_geometry": "reference"}
    assert load().overrides == {}
    with pytest.raises(UserError, match="of UGround, and only READ has that setting"):
        load("--read_num_points", "30")


@pytest.mark.parametrize("layer", ["0", "3", "last", "greedy"])
def test_a_layer_that_the_model_has_is_accepted(load, layer):
    load("--layer", layer)


def test_a_layer_that_the_model_lacks_is_refused(load):
    with pytest.raises(UserError, match="outside 0..3"):
        load("--layer", "4")


def test_a_run_is_restored_from_its_checkpoint(load, tmp_path, monkeypatch):
    (tmp_path / "ckpt_model").mkdir()
    monkeypatch.setitem(
        sys.modules,
        "checkpoints.runs.restoring",
        SimpleNamespace(load_trained=lambda path, **options: (*tiny_model(), {"report": path})),
    )
    assert not vars(load("--version", str(tmp_path)))
