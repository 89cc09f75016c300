"""SAM against Meta's own `segment-anything`: random weights through our `.pth` loader, the same numbers to 1e-4."""

import sys
from functools import partial
from types import ModuleType

import pytest
import torch
from torch import nn

from checkpoints import load_model
from dataloaders.batching.batch import Geometry, ImageGroup

TOLERANCE = 1e-4


@pytest.fixture
def segment_anything(monkeypatch):
    """The package; the two torchvision modules that it imports, and never calls here, are stubs while it loads."""
    wanted = {"torchvision.ops.boxes": ("batched_nms", "box_area")}
    wanted["torchvision.transforms.functional"] = ("resize", "to_pil_image")
    for path, names in wanted.items():
        parts = path.split(".")
        for depth in range(1, len(parts) + 1):
            monkeypatch.setitem(sys.modules, ".".join(parts[:depth]), ModuleType(parts[-1]))
        for name in names:
            setattr(sys.modules[path], name, None)
    return pytest.importorskip("segment_anything.modeling", reason="./build.sh --dev installs segment-anything")


def build_original(modeling, *, side: int, width: int, heads: int, depth: int, window: int, every: list[int]):
    """A SAM as `segment_anything.build_sam` makes it, of any size, with random values everywhere."""
    channels, grid = 32, side // 16
    torch.manual_seed(0)
    original = modeling.Sam(
        image_encoder=modeling.ImageEncoderViT(
            depth=depth,
            embed_dim=width,
            img_size=side,
            mlp_ratio=4,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            num_heads=heads,
            patch_size=16,
            qkv_bias=True,
            use_rel_pos=True,
            global_attn_indexes=every,
            window_size=window,
            out_chans=channels,
        ),
        prompt_encoder=modeling.PromptEncoder(
            embed_dim=channels, image_embedding_size=(grid, grid), input_image_size=(side, side), mask_in_chans=16
        ),
        mask_decoder=modeling.MaskDecoder(
            num_multimask_outputs=3,
            transformer=modeling.TwoWayTransformer(depth=2, embedding_dim=channels, mlp_dim=64, num_heads=8),
            transformer_dim=channels,
            iou_head_depth=3,
            iou_head_hidden_dim=32,
        ),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    )
    with torch.no_grad():
        for parameter in original.parameters():
            parameter.add_(torch.randn_like(parameter) / max(1, parameter[0].numel()) ** 0.5 / 2)
    return original.eval()


SIZES = [
    {"side": 128, "width": 32, "heads": 4, "depth": 3, "window": 3, "every": [1]},
    {"side": 160, "width": 48, "heads": 3, "depth": 2, "window": 14, "every": [0, 1]},
]


@pytest.fixture(params=SIZES, ids=["windows", "global"])
def pair(request, segment_anything, published, tmp_path):
    """The original, and ours with its weights."""
    original = build_original(segment_anything, **request.param)
    torch.save(original.state_dict(), tmp_path / "sam_vit_x.pth")
    flags = published.flags(system="UGround") | {"vision_pretrained": str(tmp_path / "sam_vit_x.pth")}
    return original, load_model(published.original, **flags)[0].eval().decoder


def geometry(part: tuple[int, int], side: int) -> Geometry:
    """Of an image whose prepared part has this size."""
    return Geometry(part, (0, 0, side, side), True, (side // 16, side // 16))


def embed_points(ours, points, labels):
    """Prompt tokens of points in pixels of SAM's square."""
    side = ours.sam.config.vision_config.image_size
    return ours.embed_points([points], [labels], [geometry((side, side), side)], [(side, side)])[0]


@torch.no_grad()
def test_image_embeddings_agree(pair):
    original, ours = pair
    side = original.image_encoder.img_size
    picture = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    sizes = [(side, side - 24), (side - 40, side)]
    expected = [
        original.image_encoder(original.preprocess(one[:, :height, :width].float()).unsqueeze(0))
        for one, (height, width) in zip(picture, sizes, strict=True)
    ]
    group = ImageGroup([0, 1], picture, [geometry(part, side) for part in sizes])
    assert torch.allclose(ours.encode(group)[0], torch.cat(expected), atol=TOLERANCE)


@torch.no_grad()
def test_prompts_agree(pair):
    original, ours = pair
    side = original.image_encoder.img_size
    points, labels = torch.rand(3, 4, 2) * side, torch.tensor([[1, 0, -1, 1]]).expand(3, -1)
    masks = torch.rand(3, 1, ours.prompt_side, ours.prompt_side)
    sparse, dense = original.prompt_encoder(points=(points, labels), boxes=None, masks=masks)
    assert torch.allclose(embed_points(ours, points, labels), sparse, atol=TOLERANCE)
    assert torch.allclose(ours.embed_masks(masks), dense, atol=TOLERANCE)
    _, nothing = original.prompt_encoder(points=None, boxes=None, masks=None)
    assert torch.allclose(ours.embed_masks(None).expand_as(nothing), nothing, atol=TOLERANCE)
    assert torch.allclose(ours.positions(), original.prompt_encoder.get_dense_pe(), atol=TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("with_mask", [False, True], ids=["no mask", "mask"])
def test_masks_agree_for_several_targets_on_several_images(pair, with_mask):
    original, ours = pair
    side, grid = original.image_encoder.img_size, original.prompt_encoder.image_embedding_size[0]
    embeddings, image = torch.randn(2, 32, grid, grid), torch.tensor([0, 1, 1])
    points, labels, text = torch.rand(3, 2, 2) * side, torch.tensor([[1, 0]]).expand(3, -1), torch.randn(3, 1, 32)
    masks = torch.rand(3, 1, 4 * grid, 4 * grid) if with_mask else None
    expected = []
    for target in range(3):
        mask = None if masks is None else masks[target : target + 1]
        point = (points[target : target + 1], labels[target : target + 1])
        sparse, dense = original.prompt_encoder(points=point, boxes=None, masks=mask)
        low_res, _ = original.mask_decoder(
            image_embeddings=embeddings[image[target]].unsqueeze(0),
            image_pe=original.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=torch.cat([sparse, text[target : target + 1]], dim=1),
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        expected.append(low_res[:, 0])
    sparse = torch.cat([embed_points(ours, points, labels), text], dim=1)
    (low_res,) = ours.decode([embeddings], image, sparse, masks).low_res
    assert torch.allclose(low_res, torch.cat(expected), atol=TOLERANCE)


@torch.no_grad()
def test_masks_at_original_size_agree(pair):
    original, ours = pair
    side = original.image_encoder.img_size
    low_res = torch.randn(2, ours.prompt_side, ours.prompt_side)
    resized, size = (side, side - 24), (75, 60)
    expected = original.postprocess_masks(low_res.unsqueeze(1), resized, size).squeeze(1)
    assert torch.allclose(ours.upscale(low_res, geometry(resized, side), size), expected, atol=TOLERANCE)
