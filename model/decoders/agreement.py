"""A mask decoder against transformers' own forward; `check.py` is the program.

PATH is a directory of transformers, with its weights or without, or a `config.json` alone; without weights they are
random. Compared are the masks, object scores and gradients of several targets with a text token, points and a mask
prompt each, on images of several shapes: what to run after an upgrade of transformers.

Legend: I images, S targets, k points, C width of a prompt token, M side of a mask prompt.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import MODEL_MAPPING, PreTrainedModel

from dataloaders.batching.batch import ImageGroup, PreparedImages
from groundscore.errors import UserError, shown
from groundscore.reading import read_json
from model.config import GroundingConfig
from model.decoders.base import DecodedTargets, MaskDecoder
from model.decoders.members import DECODERS, decoder_of

TOLERANCE = 1e-4  # of the largest value
SIZES = ((64, 64), (48, 160), (151, 37))  # of images
WEIGHTS = ("*.safetensors", "*.bin")


def report(flags: argparse.Namespace) -> None:
    """Compares the decoder that the flags of `check.py` name and prints the largest differences.

    Raises `UserError` where one is above the tolerance.
    """
    config = read_decoder_config(flags.vision_pretrained)
    torch.manual_seed(flags.seed)
    weights = flags.vision_pretrained if _has_weights(flags.vision_pretrained) else None
    theirs = reference(config, weights)
    ours = of_reference(config, theirs)
    print(f"{config.mask_decoder} of {flags.vision_pretrained}, {'its own' if weights else 'random'} weights")
    differences = compare(ours, theirs, Prompts.drawn(ours, config))
    for name, difference in differences.items():
        print(f"  {name:<28} {difference:.1e}")
    if max(differences.values()) > TOLERANCE:
        raise UserError(
            f"{config.mask_decoder} differs from transformers by more than {TOLERANCE:g}: this program was not tested "
            "with this version of it"
        )
    print(f"  equal to transformers within {TOLERANCE:g}")


def _has_weights(path: Path) -> bool:
    return path.is_dir() and any(any(path.glob(pattern)) for pattern in WEIGHTS)


def read_decoder_config(path: Path) -> GroundingConfig:
    """The configuration of a model with the mask decoder that a directory or `config.json` of transformers is of."""
    file = path / "config.json" if path.is_dir() else path
    values = read_json(file, dict, missing="it belongs to a model of transformers")
    for name, decoder in DECODERS.items():
        published, kind = decoder.published, values.get("model_type")
        if published is not None and isinstance(kind, str) and kind in published.model_types:
            key = published.model_types[kind]
            own = published.adapted(values if key is None else values.get(key) or {})
            parts = {part: own[part] for part in decoder.config_class().sub_configs if part in own}
            try:
                return GroundingConfig(sam_config=parts, mask_decoder=name)
            except (TypeError, ValueError) as error:
                raise UserError(f"{file} does not describe a model that can be built ({error})") from error
    raise UserError(f"{file} is of type {shown(values.get('model_type'))}, which no mask decoder of this program has")


def reference(config: GroundingConfig, weights: Path | None) -> PreTrainedModel:
    """transformers' model: with the weights of a directory, or random ones that are nowhere zero."""
    kind = MODEL_MAPPING[type(config.sam_config)]
    if weights is not None:
        return kind.from_pretrained(weights, config=config.sam_config, dtype=torch.float32).eval()
    model = kind(config.sam_config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / max(1, parameter[0].numel()) ** 0.5 / 2)
    return model.eval()


def of_reference(config: GroundingConfig, theirs: PreTrainedModel) -> MaskDecoder:
    """Our decoder with the weights of transformers' model."""
    ours = decoder_of(config)(config)
    ours.sam.load_state_dict(theirs.state_dict())
    return ours.eval()


@dataclass
class Prompts:
    """Prepared images, and S targets on them: the image of each, its text token [S, C], mask prompt [S, 1, M, M], and
    points [S, k, 2] in pixels of the prepared image with their labels [S, k]."""

    images: PreparedImages
    image: Tensor
    text: Tensor
    mask: Tensor
    points: Tensor
    labels: Tensor

    @classmethod
    def drawn(cls, decoder: MaskDecoder, config: GroundingConfig, targets: int = 5) -> "Prompts":
        """Random ones."""
        prepare, width = decoder.preparation(config), config.sam_config.prompt_encoder_config.hidden_size
        rng = np.random.default_rng(int(torch.randint(2**31, ())))
        images = PreparedImages.of([prepare(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in SIZES])
        side = images.groups[0].pixels.shape[-1]
        return cls(
            images,
            torch.arange(targets) % len(SIZES),
            torch.randn(targets, width),
            torch.rand(targets, 1, decoder.prompt_side, decoder.prompt_side),
            torch.rand(targets, 3, 2) * side,
            torch.tensor([[1, 0, -1]]).expand(targets, -1),
        )


def compare(ours: MaskDecoder, theirs: PreTrainedModel, prompts: Prompts) -> dict[str, float]:
    """The largest differences by name, each as a share of the largest value."""
    (group,) = prompts.images.groups
    pixels = ours.normalized(group, torch.float32)
    masks, scores = masks_of_transformers(theirs, pixels, prompts)
    decoded = masks_of_ours(ours, group, prompts)
    found = {"masks": (decoded.low_res[0], masks)}
    if scores is not None:
        found["object scores"] = (decoded.object_scores, scores)
    differences = {name: _difference(*pair) for name, pair in found.items()}
    towards = torch.randn_like(masks)
    for result in (masks, decoded.low_res[0]):
        (result * towards).sum().backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters() if parameter.grad is not None}
    own = {name: parameter.grad for name, parameter in ours.sam.named_parameters()}
    largest = max(gradient.abs().max() for gradient in gradients.values())
    differences["gradients"] = max(
        float((gradient if own[name] is None else gradient - own[name]).abs().max() / largest)
        for name, gradient in gradients.items()
    )
    return differences


def masks_of_ours(ours: MaskDecoder, group: ImageGroup, prompts: Prompts) -> DecodedTargets:
    """What our decoder gives for the prompts."""
    side, targets = group.pixels.shape[-1], len(prompts.image)
    whole = [(side, side)] * targets
    squares = [replace(group.geometries[0], size=(side, side))] * targets
    tokens = ours.embed_points(list(prompts.points.split(1)), list(prompts.labels.split(1)), squares, whole)
    sparse = torch.cat([torch.cat(tokens), prompts.text.unsqueeze(1)], dim=1)
    return ours.decode(ours.encode(group), prompts.image, sparse, prompts.mask)


def masks_of_transformers(theirs: PreTrainedModel, pixels: Tensor, prompts: Prompts) -> tuple[Tensor, Tensor | None]:
    """Mask logits [S, M, M] and object scores [S] of transformers' forward, to whose prompts the text tokens are
    added."""

    def with_text(_: nn.Module, __: tuple, embedded: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        sparse, dense = embedded
        return torch.cat([sparse, prompts.text[:, None, None]], dim=2), dense

    hooks = [theirs.prompt_encoder.register_forward_hook(with_text), *_features_after_transformer(theirs)]
    try:
        output = theirs(
            pixel_values=pixels[prompts.image],
            input_points=prompts.points.unsqueeze(1),
            input_labels=prompts.labels.unsqueeze(1),
            input_masks=prompts.mask,
            multimask_output=False,
        )
    finally:
        for hook in hooks:
            hook.remove()
    scores = getattr(output, "object_score_logits", None)
    return output.pred_masks[:, 0, 0], None if scores is None else scores.flatten()


def _features_after_transformer(theirs: PreTrainedModel) -> list[RemovableHandle]:
    """Hooks by which transformers' SAM-HQ reads masks from what its two-way transformer made of the features.

    It drops that and reads them from the features before, rows and columns exchanged (up to 5.24), where the authors'
    own code, whose weights are published, takes those after it, as SAM does.
    """
    decoder, made = theirs.mask_decoder, []
    if not hasattr(decoder, "hq_token"):
        return []
    return [
        decoder.transformer.register_forward_hook(lambda _, __, output: made.append(output[1])),
        decoder.upscale_conv1.register_forward_pre_hook(
            lambda _, given: (made.pop().squeeze(1).transpose(1, 2).reshape(given[0].shape),)
        ),
    ]


def _difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).detach().abs().max() / theirs.detach().abs().max().clamp(min=1e-9))
