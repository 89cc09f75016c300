"""Mask decoders from what is published: directories of transformers, and the files of SAM-HQ and SAM 2.1."""

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import MODEL_MAPPING, Sam2Config, Sam2Model

from checkpoints import load_model, save_model
from checkpoints.decoders import read_decoder
from checkpoints.names import Layout, from_decoder_directory, from_decoder_file
from checkpoints.sam_configs import config_from_shapes
from checkpoints.saving import export_reference
from groundscore.errors import UserError
from model.config import GroundingConfig
from model.decoders import DECODERS
from model.decoders import published as forms
from model.decoders.agreement import reference
from tests.tiny import tiny_decoder

KEYS = Path(__file__).parents[1] / "reference" / "decoders"
NEW = ("sam_hq", "sam2", "sam3_tracker")


def transformers_model(name: str) -> torch.nn.Module:
    torch.manual_seed(3)
    model = reference(GroundingConfig(sam_config=tiny_decoder(name), mask_decoder=name), None)
    frequencies = model.prompt_encoder.shared_embedding.positional_embedding
    model.shared_image_embedding.positional_embedding.data.copy_(frequencies)  # as in every published one
    return model


def assert_same(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    expected = theirs.state_dict()
    assert set(ours.state_dict()) == set(expected)
    assert all(torch.equal(ours.state_dict()[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("name", DECODERS)
def test_a_directory_of_transformers_tells_its_decoder_and_comes_back_merged(name, published, tmp_path):
    theirs = transformers_model(name)
    theirs.save_pretrained(tmp_path / "sam")
    flags = published.flags(system="UGround") | {"vision_pretrained": str(tmp_path / "sam")}
    model, processor, report = load_model(published.original, **flags)
    assert model.config.mask_decoder == name and not [each for each in report.new if each.startswith("sam.")]
    assert_same(model.sam, theirs)
    save_model(model, processor, tmp_path / "merged")
    again, _, _ = load_model(tmp_path / "merged")
    assert again.config.mask_decoder == name
    assert_same(again.sam, theirs)


def small_hiera(monkeypatch) -> None:
    """Makes the tiny Hiera one of the published sizes."""
    monkeypatch.setitem(forms.HIERA_SIZES, (8, 5), (1, (4, 2, 4, 2), (3,)))
    monkeypatch.setattr(forms, "SAM2_IMAGE", 64)


def authors_state(name: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state of transformers under the names of the authors."""
    layout = Layout(DECODERS[name].published.in_file)
    state = {key: value for key, value in state.items() if key != "shared_image_embedding.positional_embedding"}
    for stacked in DECODERS[name].published.stacked:
        rows = state.pop(f"{stacked}.weight")
        state |= {f"{stacked}.{index}.weight": row[None] for index, row in enumerate(rows)}
    return {layout.to_theirs(key): value.clone() for key, value in state.items()}


@pytest.mark.parametrize("name", ["sam_hq", "sam2"])
def test_the_authors_file_tells_its_decoder(name, published, tmp_path, monkeypatch):
    small_hiera(monkeypatch)
    theirs = transformers_model(name)
    tensors = authors_state(name, theirs.state_dict())
    if name == "sam2":
        memory = {"memory_encoder.pix_feat_proj.weight": torch.zeros(2), "no_obj_ptr": torch.zeros(1)}
        tensors = {"model": tensors | memory}
    torch.save(tensors, tmp_path / "weights.pt")
    flags = published.flags(system="LISA") | {"vision_pretrained": str(tmp_path / "weights.pt")}
    model, _, _ = load_model(published.original, **flags)
    assert model.config.mask_decoder == name
    assert_same(model.sam, theirs)


def published_names(file: str) -> set[str]:
    """The names of a list, in which `{a..b}` stands for the numbers from a to b, `{a,b}` for a and b."""

    def unfold(line: str) -> list[str]:
        match = re.search(r"\{([^}]*)\}", line)
        if match is None:
            return [line]
        inner = match[1]
        first, dots, last = inner.partition("..")
        choices = range(int(first), int(last) + 1) if dots else inner.split(",")
        return [name for each in choices for name in unfold(f"{line[: match.start()]}{each}{line[match.end() :]}")]

    return {name for line in (KEYS / file).read_text().split() for name in unfold(line)}


def hiera(
    width=96, heads=1, blocks=(1, 2, 7, 2), everywhere=(5, 7, 9), windows=(8, 4, 14, 7), background=7
) -> Sam2Config:
    """A published size, as transformers' conversion of the authors' files describes it."""
    widths = [width * 2**stage for stage in range(4)]
    return Sam2Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": width,
                "num_attention_heads": heads,
                "blocks_per_stage": list(blocks),
                "embed_dim_per_stage": widths,
                "num_attention_heads_per_stage": [heads * 2**stage for stage in range(4)],
                "window_size_per_stage": list(windows),
                "global_attention_blocks": list(everywhere),
                "window_positional_embedding_background_size": [background, background],
            },
            "backbone_channel_list": widths[::-1],
        },
        mask_decoder_config={"dynamic_multimask_via_stability": False},
    )


HIERAS = {
    "tiny": hiera(),
    "small": hiera(blocks=(1, 2, 11, 2), everywhere=(7, 10, 13)),
    "base+": hiera(112, 2, (2, 3, 16, 3), (12, 16, 20), background=14),
    "large": hiera(144, 2, (2, 6, 36, 4), (23, 33, 43), (8, 4, 16, 8)),
}


@pytest.mark.parametrize("size", HIERAS)
def test_a_published_sam_2_is_recognised_by_its_shapes(size):
    expected = HIERAS[size]
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in Sam2Model(expected).state_dict().items()}
    found = config_from_shapes(DECODERS["sam2"], shapes, Path("sam2.pt"))
    for part in ("vision_config", "prompt_encoder_config", "mask_decoder_config"):
        assert getattr(found, part).to_diff_dict() == getattr(expected, part).to_diff_dict()


def test_another_hiera_is_told_to_come_as_a_directory(tmp_path):
    torch.save({"model": authors_state("sam2", transformers_model("sam2").state_dict())}, tmp_path / "sam2.pt")
    with pytest.raises(UserError, match="sam2.pt is not a SAM 2: .*5 blocks of width 8; use a directory"):
        read_decoder(tmp_path / "sam2.pt")


def test_the_file_of_sam_2_has_the_published_names():
    """facebookresearch/sam2, sam2.1_hiera_large.pt: all are known, and those of the memory are left out."""
    names = published_names("SAM2.1_large.txt")
    with torch.device("meta"):
        ours = set(authors_state("sam2", Sam2Model(HIERAS["large"]).state_dict()))
    assert ours <= names
    assert not [each for name in names - ours for each in from_decoder_file(DECODERS["sam2"].published)(name)]


def test_the_file_of_sam_hq_has_the_published_names():
    """SysCV/sam-hq, sam_hq_vit_h.pth: SAM's names and those of `MaskDecoderHQ`."""
    names = published_names("SAM_HQ.txt")
    with torch.device("meta"):
        kind = DECODERS["sam_hq"].config_class
        ours = authors_state("sam_hq", MODEL_MAPPING[kind](kind()).state_dict())
    of_sam = set(authors_state("sam", transformers_model("sam").state_dict()))
    assert {name for name in ours if "hf_" in name or "compress" in name or "embedding_" in name} == names
    assert {re.sub(r"\.\d+\.", ".#.", name) for name in set(ours) - names} == {
        re.sub(r"\.\d+\.", ".#.", name) for name in of_sam
    }


def test_the_published_sam_3_holds_the_tracker_among_other_things():
    """facebook/sam3 names its tensors as transformers' video model does."""
    translate = from_decoder_directory(DECODERS["sam3_tracker"].published)
    assert translate("detector_model.vision_encoder.backbone.layers.0.mlp.fc1.weight") == (
        "sam.vision_encoder.backbone.layers.0.mlp.fc1.weight",
    )
    assert translate("tracker_neck.fpn_layers.2.proj1.bias") == ("sam.vision_encoder.neck.fpn_layers.2.proj1.bias",)
    assert translate("tracker_model.no_memory_embedding") == ("sam.no_memory_embedding",)
    for unused in (
        "tracker_neck.fpn_layers.3.proj1.bias",
        "detector_model.text_encoder.text_projection.weight",
        "detector_model.vision_encoder.neck.fpn_layers.0.proj1.bias",
        "tracker_model.memory_attention.layers.0.linear1.weight",
    ):
        assert translate(unused) == ()


BAD = {
    "another side": (
        "sam2",
        ("prompt_encoder_config", "image_size", 128),
        "prompt_encoder_config is for images of 128",
    ),
    "maps of other sides": ("sam2", ("vision_config", "backbone_feature_sizes", [[8, 8], [4, 4], [2, 2]]), "should be"),
    "global where it pools": (
        "sam2",
        ("vision_config", "backbone_config", {"global_attention_blocks": [2]}),
        "block 2, which pools",
    ),
    "patches that windows do not fill": (
        "sam2",
        ("vision_config", "backbone_config", {"window_size_per_stage": [6, 2, 4, 2]}),
        "side of the patches, 16 is not a multiple of 6",
    ),
    "another width": ("sam3_tracker", ("vision_config", "fpn_hidden_size", 64), "have widths"),
    "a text": ("sam3_tracker", ("mask_decoder_config", "mlp_dim", "wide"), "mlp_dim should be a whole number"),
    "no early layer": ("sam_hq", ("vision_config", "global_attn_indexes", []), "vit_dim 16 is not the width"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_configuration_that_does_not_fit_is_named(case, tmp_path):
    name, (part, key, value), message = BAD[case]
    theirs = transformers_model(name)
    theirs.save_pretrained(tmp_path)
    config = theirs.config.to_dict()
    config[part][key] = config[part][key] | value if isinstance(value, dict) else value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        read_decoder(tmp_path)


def test_another_decoder_has_no_layout_of_the_reference(published, tmp_path):
    transformers_model("sam2").save_pretrained(tmp_path / "sam")
    flags = published.flags(system="LISA") | {"vision_pretrained": str(tmp_path / "sam")}
    model, processor, _ = load_model(published.original, **flags)
    with pytest.raises(UserError, match="the reference has SAM alone"):
        export_reference(model, processor, tmp_path / "out", vision_tower="clip")
