"""Every system on every mask decoder: it trains, is saved and read back, is evaluated, and answers."""

from pathlib import Path

import pytest
import torch

from checkpoints import load_model, save_model
from dataloaders.batching.collate import Collator
from inference.session import ChatSession
from model.config import GroundingConfig
from model.decoders import DECODERS
from model.decoders.agreement import reference
from model.systems import SYSTEMS
from tests.tiny import picture, tiny_decoder, tiny_model, tiny_samples, write_answer
from tests.tiny_bases import write_qwen

NEW = [name for name in DECODERS if name != "sam"]
PIXELLM = {"seg_token_num": 3, "image_feature_scale_num": 2}
# Of the pairs on Qwen3-VL one for every system, the others as slow tests; on LLaVA all.
QWEN = [
    pytest.param(system, name, marks=() if row % len(NEW) == column else pytest.mark.slow)
    for row, system in enumerate(SYSTEMS)
    for column, name in enumerate(NEW)
]


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> Path:
    """A tiny Qwen3-VL, and directories of transformers with each mask decoder."""
    directory = tmp_path_factory.mktemp("bases")
    write_qwen(directory / "qwen3_vl", "qwen3_vl", tie_word_embeddings=True)
    for name in NEW:
        torch.manual_seed(0)
        reference(GroundingConfig(sam_config=tiny_decoder(name), mask_decoder=name), None).save_pretrained(
            directory / name
        )
    return directory


@pytest.mark.parametrize("name", NEW)
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_system_learns_is_merged_evaluated_and_answers(system, name, tmp_path):
    """PixelLM decodes from the backbone's features unless `vision_tower_for_mask` is off, as it is here."""
    fields = {"vision_tower_for_mask": False} if system == "PixelLM" else {}
    live(*tiny_model(system, mask_decoder=name, **fields), tmp_path)


@pytest.mark.parametrize(("system", "name"), QWEN)
def test_so_it_does_on_qwen3_vl_with_weights_from_disk(system, name, bases, tmp_path):
    overrides = PIXELLM if system == "PixelLM" else {}
    model, processor, _ = load_model(
        bases / "qwen3_vl", system=system, vision_pretrained=str(bases / name), overrides=overrides
    )
    assert model.config.mask_decoder == name and model.config.backbone == "qwen3_vl"
    live(model, processor, tmp_path)


def live(model, processor, directory: Path) -> None:
    """Trains the model a little, saves it, reads it back, compares its masks, and asks it a question."""
    model.decoder.encoder.requires_grad_(False)
    batch = Collator(processor)(tiny_samples())
    optimizer = torch.optim.Adam([each for each in model.parameters() if each.requires_grad], lr=3e-3)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        torch.manual_seed(0)
        loss = model.train()(batch, layer_choice=torch.tensor([0, 1, 2, 3])).losses["mask_loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]

    save_model(model.eval(), processor, directory / "merged")
    again, processor, _ = load_model(directory / "merged")
    layer = 2 if model.system.uses_policy else None
    for one, other in zip(model.segment(batch, layer), again.eval().segment(batch, layer), strict=True):
        assert torch.equal(one.mask_logits, other.mask_logits)
        assert one.decisions == other.decisions

    write_answer(again, model.config.seg_token_ids)
    reply = ChatSession(again, processor).ask(picture(5, 37, 61), [], "What is the red ball?")
    assert reply.masks.shape == (1, 37, 61)


@pytest.mark.parametrize("name", DECODERS)
def test_pixellm_keeps_a_decoder_of_its_own_whatever_the_configuration_names(name):
    model, _ = tiny_model("PixelLM", mask_decoder=name)
    assert type(model.decoder).__name__ == "MultiScaleDecoder" and not hasattr(model, "sam")
