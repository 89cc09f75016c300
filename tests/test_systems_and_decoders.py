"""Every system on every mask decoder: it trains, is saved and read back, is evaluated, and answers."""

import pytest
import torch

from checkpoints import load_model, save_model
from dataloaders.batching.collate import Collator
from inference.session import ChatSession
from model.decoders import DECODERS
from model.systems import SYSTEMS
from tests.tiny import picture, tiny_model, tiny_samples, write_answer


@pytest.mark.parametrize("name", [name for name in DECODERS if name != "sam"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_system_learns_is_merged_evaluated_and_answers(system, name, tmp_path):
    """PixelLM decodes from the backbone's features unless `vision_tower_for_mask` is off, as it is here."""
    fields = {"vision_tower_for_mask": False} if system == "PixelLM" else {}
    model, processor = tiny_model(system, mask_decoder=name, **fields)
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

    save_model(model.eval(), processor, tmp_path / "merged")
    again, processor, _ = load_model(tmp_path / "merged")
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
