"""Compiled encoders give what they gave before."""

import shutil

import pytest
import torch

from dataloaders.batching.collate import Collator
from tests.tiny import tiny_model, tiny_samples


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.parametrize(
    ("system", "decoder"),
    [("UGround", "sam"), ("PixelLM", "sam"), ("UGround", "sam_hq"), ("UGround", "sam2"), ("UGround", "sam3_tracker")],
)
def test_compiled_encoders_give_the_same_losses_and_keep_their_names(system, decoder):
    model, processor = tiny_model(system, mask_decoder=decoder)
    model.vision_tower.requires_grad_(False)
    if model.decoder.encoder is not None:
        model.sam.vision_encoder.requires_grad_(False)
    batch = Collator(processor)(tiny_samples())
    choice = torch.tensor([0, 1, 2, 3])
    names = list(model.state_dict())
    with torch.no_grad():
        torch.manual_seed(0)  # the policy draws more layers to compare
        plain = model(batch, layer_choice=choice).losses
        assert model.compile_encoders()
        torch.manual_seed(0)
        compiled = model(batch, layer_choice=choice).losses
    assert list(model.state_dict()) == names
    assert {name: value.item() for name, value in compiled.items()} == pytest.approx(
        {name: value.item() for name, value in plain.items()}, rel=1e-4
    )
