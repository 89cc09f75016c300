"""The backbone and the mask decoder of docs/adding_a_backbone.md and docs/adding_a_decoder.md in the whole skeleton.

Their grids are not square and differ within a batch.
"""

from dataclasses import replace
from importlib import import_module

import pytest
import torch

from checkpoints import load_model, save_model
from checkpoints.processing import GroundingProcessor
from dataloaders.batching.collate import Collator
from dataloaders.sample import Turn
from evaluation.layer_analysis import layer_analysis
from groundscore.errors import UserError
from model.feature_cache import FeatureCache
from model.grounding import GroundingModel
from model.similarity import map_on_image
from tests.page_plugins import importable_plugins
from tests.tiny import text_only_sample, tiny_config, tiny_samples, tiny_tokenizer

SYSTEMS = ("LISA", "GSVA", "SESAME", "UGround")  # READ needs a decoder that takes points


@pytest.fixture(scope="module", autouse=True)
def plugins(tmp_path_factory):
    with importable_plugins(tmp_path_factory.mktemp("plugins")):
        import_module("mean_backbone")
        import_module("dot_decoder")
        yield


def toy(system: str = "UGround", **fields) -> tuple[GroundingModel, GroundingProcessor]:
    torch.manual_seed(0)
    config = tiny_config(system, backbone="MeanBackbone", mask_decoder="DotDecoder", **fields)
    return GroundingModel(config), GroundingProcessor(config, tiny_tokenizer())


def samples():
    return [*tiny_samples(), text_only_sample()]  # of 40 × 60, 70 × 48 and 50 × 50 pixels


def test_the_grids_are_not_square_and_differ():
    batch = Collator(toy()[1])(samples())
    assert [geometry.grid for geometry in batch.backbone_images.geometries] == [(4, 6), (7, 4), (5, 5)]
    assert batch.cell_positions.shape[1] == 28


@pytest.mark.parametrize("system", SYSTEMS)
def test_training_decreases_the_loss_and_reaches_every_part(system):
    model, processor = toy(system)
    batch = Collator(processor)(samples())
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = model(batch).loss
        loss.backward()
        losses.append(loss.item())
        if len(losses) == 1:
            trained = [name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()]
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
    reached = {name.split(".")[0] for name in trained}
    assert {"words", "eye", "mixers", "lm_head", "text_hidden_fcs", "pixel_encoder", "pixel_head"} <= reached
    assert system != "UGround" or {"mask_weight", "policy"} <= reached


@pytest.mark.parametrize("system", SYSTEMS)
def test_packed_rows_equal_plain_rows(system):
    model, processor = toy(system)
    results = []
    for packed in (True, False):
        torch.manual_seed(0)
        model.zero_grad()
        output = model(Collator(processor, packed=packed)(samples()), layer_choice=torch.tensor([0, 3, 1, 2]))
        output.loss.backward()
        results.append([output.loss, *(p.grad for p in model.parameters() if p.grad is not None)])
    for packed, plain in zip(*results, strict=True):
        torch.testing.assert_close(packed, plain, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_batch_equals_its_images_one_by_one(system):
    model, processor = toy(system)
    collate = Collator(processor)
    layer = 2 if system == "UGround" else None  # an untrained policy leaves the choice to rounding
    together = model.eval().segment(collate(samples()), layer)
    for one, sample in zip(together, samples(), strict=True):
        (alone,) = model.segment(collate([sample]), layer)
        assert one.mask_logits.shape[1:] == sample.image.shape[:2]
        torch.testing.assert_close(one.mask_logits, alone.mask_logits, atol=1e-5, rtol=1e-4)
        if alone.similarity_maps is not None:
            torch.testing.assert_close(one.similarity_maps, alone.similarity_maps, atol=1e-5, rtol=1e-4)


def questions():
    return [
        replace(each, conversations=[(Turn(t[0].question, None),) for t in each.conversations]) for each in samples()
    ]


def test_packed_prompts_are_answered_as_plain_ones():
    model, processor = toy()
    answers = [
        model.eval().generate(Collator(processor, packed=packed)(questions()), max_new_tokens=6)
        for packed in (True, False)
    ]
    assert [one.token_ids for one in answers[0]] == [one.token_ids for one in answers[1]]


def test_a_target_that_is_written_gets_a_mask_and_a_map():
    model, processor = toy()
    head = model.lm_head.weight
    with torch.no_grad():
        head.zero_()
        head[model.config.seg_token_ids[0]] = 1e-3 * torch.randn(head.shape[1])
        model.mixers[-1].bias.copy_(100 * head[model.config.seg_token_ids[0]])
        model.mixers[-1].weight.zero_()
    answers = model.eval().generate(Collator(processor)(questions()), max_new_tokens=2)
    written = [one for one in answers if one.seg_indices]
    assert written
    for answer in written:
        assert answer.mask_logits.shape == answer.similarity_maps.shape
        assert answer.mask_logits.isfinite().all()


def test_the_layers_can_be_analysed_and_features_cached(tmp_path):
    model, processor = toy()
    processor.identifies_images = True
    batch = Collator(processor)(samples())
    analysis = layer_analysis(model.eval(), batch)
    assert analysis.iou.shape == (4, model.config.num_layers)
    plain = model.segment(batch, 2)
    model.requires_grad_(False)
    model.cache_features(FeatureCache(tmp_path, 10**9))
    for _ in range(2):
        for one, other in zip(plain, model.segment(batch, 2), strict=True):
            torch.testing.assert_close(one.mask_logits, other.mask_logits, atol=0.05, rtol=0.05)  # kept in bfloat16


def test_the_saved_model_loads_and_segments_as_before(tmp_path):
    model, processor = toy()
    save_model(model, processor, tmp_path / "saved")
    again, its_processor, report = load_model(tmp_path / "saved")
    assert not report.new and not report.dropped
    results = [
        one.eval().segment(Collator(prepare)(samples()), 2)
        for one, prepare in ((model, processor), (again, its_processor))
    ]
    for one, other in zip(*results, strict=True):
        assert one.mask_logits.equal(other.mask_logits)


@pytest.mark.parametrize("size", [(40, 60), (70, 48), (20, 80), (80, 20), (31, 53)])
def test_a_lit_cell_lies_on_its_patch_of_the_image(size):
    """On grids of any proportions; the patches that do not fill a cell are outside."""
    _, geometry = import_module("mean_backbone").patches(torch.zeros(*size, 3, dtype=torch.uint8).numpy())
    rows, columns = geometry.grid
    for row, column in [(0, 0), (rows - 1, columns - 1), (rows // 2, columns // 2)]:
        scores = torch.zeros(1, rows * columns + 3)  # three cells of padding follow
        scores[0, row * columns + column] = 1
        (found,) = map_on_image(scores, geometry, size)
        brightest = (found == found.max()).nonzero().float().mean(dim=0)
        lit = torch.tensor([10 * row + 4.5, 10 * column + 4.5])
        assert (brightest - lit).abs().max() <= 5  # at a border the map stays bright up to it


def test_a_prompt_that_the_decoder_does_not_take_is_refused():
    model, processor = toy("READ")
    with pytest.raises(UserError, match="DotDecoder takes no points"):
        model(Collator(processor)(samples()))
