"""The comparison with the reference: what it is given, how the two take turns, and what a wrong checkout is told.

The stand-in checkout has the names and signatures that the harness relies on, and losses of its own.
"""

import sys
from dataclasses import asdict, replace

import pytest
import torch

from benchmarks.bench_model import IMAGE_ID, SEG_ID, SIZES, BenchShape, bench_batch
from benchmarks.versus import SDPA, USUAL, Comparison, both_sides, check_losses, main, table_rows, take_turns
from benchmarks.versus_ours import IGNORE, reference_batch
from groundscore.errors import UserError

TINY = SIZES["tiny"]
STAND_IN = {
    "model/UGround.py": """
import torch

def build_sam_vit_h(checkpoint=None):
    raise AssertionError("the bench model's SAM is smaller")

class UGroundForCausalLM(torch.nn.Module):
    def __init__(self, config, *, vision_tower, seg_token_idx, **arguments):
        super().__init__()
        self.layers, self.seg = config.num_hidden_layers, seg_token_idx
        self.generation_config = config
        self.sam = build_sam_vit_h(None)

    def get_model(self):
        return self

    def initialize_vision_modules(self, config):
        pass

    initialize_decoder_modules = initialize_vision_modules

    def load_state_dict(self, weights, strict):
        self.ppm = torch.nn.Module()
        self.ppm._layer_gate_W_similarity = torch.nn.Parameter(weights["ppm._layer_gate_W_similarity"])
        return ["model.layers.0.self_attn.rotary_emb.inv_freq"], []

    def forward(self, images, images_clip, input_ids, labels, attention_masks, offset, masks_list, **_):
        assert len(images) == len(images_clip) == len(masks_list) == len(offset) - 1
        drawn = torch.distributions.Categorical(logits=torch.zeros(6, self.layers + 1)).sample()
        print("a print of the checkout")
        return {"loss": self.ppm._layer_gate_W_similarity.sum() + drawn.sum(), "ce_loss": (input_ids == self.seg).sum()}
""",
    "model/llava/model/language_model/llava_llama.py": """
class LlavaConfig:
    def __init__(self, **values):
        vars(self).update(values)
""",
    "model/segment_anything/build_sam.py": """
def _build_sam(encoder_embed_dim, encoder_depth, encoder_num_heads, encoder_global_attn_indexes, checkpoint=None):
    return encoder_embed_dim
""",
}


def stand_in(directory, **changed):
    for name, text in STAND_IN.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(changed.get(path.stem, text))
    return directory


def test_a_batch_is_the_same_for_the_reference_however_our_rows_are_laid_out():
    shape = replace(TINY, images=3, sizes=((48, 64), (64, 40), (80, 80)), conversations=2, segs=2)
    (packed, sizes), (plain, _) = (
        reference_batch(bench_batch(replace(shape, packed=packed))) for packed in (True, False)
    )
    assert packed.keys() == plain.keys() and all(torch.equal(packed[name], plain[name]) for name in packed)
    assert packed["input_ids"].shape == packed["labels"].shape == (6, shape.text_tokens)
    assert ((packed["input_ids"] == IMAGE_ID).sum(dim=1) == 1).all()
    assert (packed["input_ids"][packed["labels"] == SEG_ID] == SEG_ID).sum() == 3 * 2 * 2
    assert (packed["labels"] != IGNORE).sum() == 6 * shape.labelled
    assert packed["offset"].tolist() == [0, 2, 4, 6]
    assert [packed[f"masks.{image}"].shape for image in range(3)] == [(4, 48, 64), (4, 64, 40), (4, 80, 80)]
    assert sizes["sam"] == [((192, 256), (48, 64)), ((256, 160), (64, 40)), ((256, 256), (80, 80))]


def test_a_reference_with_other_losses_is_refused(tmp_path):
    shape = {name: value for name, value in asdict(TINY).items() if value != getattr(BenchShape(), name)}
    with both_sides(Comparison(shape), stand_in(tmp_path), sys.executable) as (ours, reference):
        choices = ours.ask("choices")["value"]
        assert reference.ask("losses", layers=choices)["value"] == {"loss": sum(choices), "ce_loss": 6.0}
        assert 0.05 < reference.ask("train", attention=SDPA)["peak_gb"] < 8
        with pytest.raises(UserError, match="do not compute the same: .*loss is"):
            check_losses(ours, reference)


def test_a_checkout_that_fails_is_quoted(tmp_path):
    shape = {"layers": 1, "width": 32, "mlp": 32, "heads": 1, "clip_layers": 2, "sam_layers": 1, "sam_image_size": 256}
    broken = stand_in(tmp_path, UGround="raise ImportError('no module named flash_attn')")
    with both_sides(Comparison(shape), broken, sys.executable) as (_, reference):
        with pytest.raises(UserError, match=r"(?s)reference's side ended with status 1.*no module named flash_attn"):
            reference.ask("losses", layers=[0])


class Clock:
    """A side whose answers take longer each time."""

    def __init__(self, log, first, step):
        self.log, self.seconds, self.step = log, first, step

    def ask(self, work, **options):
        self.log.append((work, options.get("attention", "ours")))
        self.seconds += self.step
        return {"cpu_seconds": self.seconds, "peak_gb": 1.0, "value": None}


def test_sides_take_turns_and_the_first_turn_does_not_count():
    log = []
    turns = take_turns("train", Comparison(), Clock(log, 0, 1), Clock(log, 0, 2), [USUAL, SDPA], 2)
    assert log == [("train", arm) for arm in ("ours", USUAL, SDPA)] * 3
    assert [turn["cpu_seconds"] for turn in turns["ours"]] == [2, 3]
    assert [turn["cpu_seconds"] for turn in turns[SDPA]] == [8, 12]
    seconds, peak = table_rows("training step", turns)
    cells = "2.50 (2.00–3.00)|8.00 (6.00–10.00)|0.317 (0.300–0.333)|10.00 (8.00–12.00)|0.250 (0.250–0.250)"
    assert seconds == f"|training step|CPU s|{cells}|"
    assert peak.startswith("|training step|peak GB|1.00 (1.00–1.00)|1.00 (1.00–1.00)|1.000")


def test_what_is_no_checkout_or_no_python_is_said(tmp_path):
    with pytest.raises(UserError, match="no checkout of UGround, it has no model/UGround.py"):
        main(["--reference", str(tmp_path)])
    with pytest.raises(UserError, match=r"\.venv/bin/python: there is no such file; docs/performance.md says how"):
        main(["--reference", str(stand_in(tmp_path))])
