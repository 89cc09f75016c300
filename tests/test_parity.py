"""The reference's numbers are reproduced: losses, masks, maps, decisions and gradient norms of every recorded case."""

import os
from pathlib import Path

import pytest
import torch

from checkpoints.names import reference_gradients
from tests.parity import ParityCase

CASES = Path(os.environ.get("PARITY_CASES", Path(__file__).parent / "reference" / "cases"))
DIRECTORIES = sorted(path.parent for path in CASES.glob("*/meta.json"))


@pytest.fixture(scope="module", params=DIRECTORIES, ids=lambda path: path.name)
def case(request):
    return ParityCase.read(request.param)


@pytest.fixture(scope="module")
def model(case):
    return case.model()


@pytest.fixture(scope="module")
def output(case, model):
    result = model(case.batch(model), layer_choice=case.tensors.get("layer_choice"))
    result.loss.backward()
    return result


def test_a_directory_of_cases_is_there():
    assert DIRECTORIES, f"no parity cases in {CASES}"


def test_losses_equal(case, output):
    for name, expected in case.meta["losses"].items():
        assert output.losses[name].item() == pytest.approx(expected, rel=1e-4), name


def test_prompt_embeddings_equal(case, output):
    if "pred_embeddings" in case.tensors:
        assert torch.allclose(output.pred_embeddings.squeeze(1), case.tensors["pred_embeddings"], atol=2e-3)


def test_similarity_maps_equal(case, output):
    names = [name for name in case.tensors if name.startswith("similarity_map.")]
    for name in names:
        ours = output.similarity_maps[int(name.rpartition(".")[2])]
        assert torch.allclose(ours, case.tensors[name], atol=2e-3), name


def test_low_resolution_masks_equal(case, output):
    """Recorded per image and, for decoders of several scales, per scale."""
    stride = case.meta["low_res_stride"]
    names = [name for name in case.tensors if name.startswith("low_res_masks.")]
    names.sort(key=lambda name: int(name.rpartition(".")[2]))
    scales = len(output.low_res_masks)
    for scale, ours in enumerate(output.low_res_masks):
        expected = torch.cat([case.tensors[name][:, 0] for name in names[scale::scales]])
        assert torch.allclose(ours[:, ::stride, ::stride], expected, atol=2e-3), f"scale {scale}"


def test_gradient_norms_equal(case, model, output):
    ours = {name: gradient.norm().item() for name, gradient in reference_gradients(model).items()}
    for name, expected in case.meta["grad_norms"].items():
        assert ours.get(name, 0.0) == pytest.approx(expected, rel=2e-3, abs=1e-5), name


def test_teacher_forced_masks_equal(case, model):
    model.eval()
    segmentation = model.segment(case.batch(model, images=1))[0]
    model.train()
    assert torch.allclose(segmentation.mask_logits, case.tensors["eval_pred_masks.0"], atol=2e-3)


def test_teacher_forced_decisions_equal(case, model):
    """The recorded ids hold `[SEG]` or `[REJ]` at every target, as the model decided (GSVA)."""
    names = sorted(name for name in case.tensors if name.startswith("eval_output_ids."))
    recorded = torch.cat([case.tensors[name] for name in names]).tolist() if names else []
    kinds = {case.meta["seg_token_id"]: True, case.meta["rej_token_id"]: False}
    expected = [kinds[token] for token in recorded if token in kinds]
    if not expected:
        pytest.skip("no decisions recorded")
    model.eval()
    segmentation = model.segment(case.batch(model, images=1))[0]
    model.train()
    assert segmentation.decisions == expected
