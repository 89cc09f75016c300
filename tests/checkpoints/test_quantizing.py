"""An LLM in 8 or 4 bit answers much like one in full precision, and nothing else of the model is touched."""

import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from checkpoints import load_model, save_model
from checkpoints.processing import GroundingProcessor
from checkpoints.quantizing import quantize
from dataloaders.batching.collate import Collator
from groundscore.errors import UserError
from model.grounding import GroundingModel
from model.systems import SYSTEMS
from tests.model.test_generation import prompts
from tests.tiny import tiny_config, tiny_model, tiny_samples, tiny_tokenizer


@pytest.fixture
def bitsandbytes():
    return pytest.importorskip("bitsandbytes", reason="pip install -r requirements-quantize.txt")


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("system", SYSTEMS)
def test_only_the_llm_s_linear_layers_are_quantised(bitsandbytes, tmp_path, system, bits):
    model, processor = wide_model(system)
    save_model(model, processor, tmp_path / "saved")
    quantised, _, report = load_model(tmp_path / "saved", bits=bits)
    small = [name for name, part in quantised.named_modules() if type(part).__module__.startswith("bitsandbytes")]
    linears = {name for name, part in quantised.named_modules() if isinstance(part, nn.Linear)}
    plain = linears.difference(small)
    assert len(small) == 3 * 7 and all(name.startswith("language_model.layers.") for name in small)
    assert "lm_head" in plain and "mm_projector.0" in plain and "text_hidden_fcs.0" in plain
    weights = {quantised.get_submodule(name).weight.dtype for name in small}
    assert weights <= {torch.int8, torch.uint8}
    rest = {name: p for name, p in quantised.named_parameters() if not name.startswith("language_model.layers.")}
    assert all(torch.equal(parameter, model.get_parameter(name)) for name, parameter in rest.items())
    assert f"quantised to {bits} bit" in str(report)


def wide_model(system="UGround", mlp_width=64):
    """Blocks of 4-bit weights are 64 wide."""
    config = tiny_config(system)
    config.text_config.hidden_size, config.text_config.head_dim = 64, 32
    config.text_config.intermediate_size = mlp_width
    torch.manual_seed(0)
    return GroundingModel(config), GroundingProcessor(config, tiny_tokenizer(config.tokens_per_target))


@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantised_model_segments_and_writes(bitsandbytes, tmp_path, bits):
    save_model(*wide_model(), tmp_path / "saved")
    model, processor, _ = load_model(tmp_path / "saved")
    quantised, _, _ = load_model(tmp_path / "saved", bits=bits)
    batch = Collator(processor)(tiny_samples())
    states = [each.read(batch, each.encode_images(batch))[-1] for each in (model.eval(), quantised.eval())]
    error = (states[1] - states[0]).norm() / states[0].norm()
    assert 0 < error < {8: 0.1, 4: 0.6}[bits]
    assert all(torch.isfinite(result.mask_logits).all() for result in quantised.segment(batch))
    answers = quantised.generate(Collator(processor, packed=False, padding_side="left")(prompts()), max_new_tokens=5)
    assert all(answer.token_ids for answer in answers)


def test_layers_that_do_not_fit_4_bit_keep_full_precision_which_is_said_once(bitsandbytes, tmp_path, caplog):
    save_model(*wide_model(mlp_width=96), tmp_path / "saved")
    quantised, processor, _ = load_model(tmp_path / "saved", bits=4)
    layers = quantised.language_model.layers
    plain = [name for name, part in layers.named_modules() if type(part) is nn.Linear]
    assert plain == [f"{block}.mlp.down_proj" for block in range(len(layers))]
    (said,) = [record.getMessage() for record in caplog.records if "full precision" in record.getMessage()]
    assert f"{len(layers)} of the LLM's {7 * len(layers)} linear layers" in said
    results = quantised.eval().segment(Collator(processor)(tiny_samples()))
    assert all(torch.isfinite(result.mask_logits).all() for result in results)


def test_an_llm_without_a_layer_that_fits_4_bit_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", ModuleType("bitsandbytes"))
    config = tiny_config("LISA")  # 32 wide
    config.text_config.intermediate_size = 48
    with pytest.raises(UserError, match="no layer of this LLM fits.*--load_in_8bit"):
        quantize(GroundingModel(config), 4)


def test_without_bitsandbytes_it_is_said_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    save_model(*tiny_model("LISA"), tmp_path / "saved")
    with pytest.raises(UserError, match="requirements-quantize.txt"):
        load_model(tmp_path / "saved", bits=4)
