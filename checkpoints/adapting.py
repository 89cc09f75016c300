"""Tensors that change on the way into a model (word embeddings, CLIP's positions, LoRA), and newly initialised ones."""

import re
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from checkpoints.weights import Weights
from groundscore.errors import UserError

CLIP_POSITIONS = "vision_tower.embeddings.position_embedding.weight"
_LORA = re.compile(r"(?P<module>.*)\.lora_(?P<side>[AB])\.default\.weight$")


def resize_clip_positions(
    weights: Weights, stored: tuple[int, int], grid: tuple[int, int], *, as_reference: bool
) -> bool:
    """Interpolate CLIP's position embeddings, of the class token and of a `stored` grid of patches, to another `grid`.

    Returns whether that was needed. stored: (rows, columns) as the configuration tells; grid: those of the model.
    as_reference: its way, which takes the last row for the class token (it is the first); checkpoints trained with
        it need it.
    """
    shape = weights.shape(CLIP_POSITIONS)
    if len(shape) != 2 or shape[0] < 2:
        raise UserError(f"{weights.their_name(CLIP_POSITIONS)} is {shape}, not CLIP's table of positions")
    rows, width = shape
    if rows == grid[0] * grid[1] + 1:
        return False
    if rows != stored[0] * stored[1] + 1:
        name = weights.their_name(CLIP_POSITIONS)
        raise UserError(f"{name} has {rows} rows, where config.json tells of {stored[0]} × {stored[1]} patches")
    read, class_row = weights.reader(CLIP_POSITIONS), -1 if as_reference else 0
    resize = partial(_resized_positions, read, stored, grid, class_row=class_row)
    weights.put(CLIP_POSITIONS, (grid[0] * grid[1] + 1, width), resize)
    return True


def _resized_positions(
    read: Callable[[], Tensor], stored: tuple[int, int], grid: tuple[int, int], *, class_row: int
) -> Tensor:
    """[rows · columns + 1, V] of `grid`, from a table of `stored`; class_row: -1 or 0."""
    table = read().float()
    cells, class_token = (table[:-1], table[-1:]) if class_row == -1 else (table[1:], table[:1])
    maps = cells.T.unflatten(1, stored).unsqueeze(0)  # [1, V, rows, columns]
    resized = F.interpolate(maps, grid, mode="bilinear", align_corners=False).flatten(2).squeeze(0).T
    return torch.cat([resized, class_token] if class_row == -1 else [class_token, resized])


def merge_lora(weights: Weights, alpha: float, source: str) -> int:
    """Add LoRA's products to the weights that they adapt: W + alpha/r · B A. Returns how many were adapted.

    The rank is read off the tensors; alpha leaves no trace in them.
    """
    sides: dict[str, dict[str, str]] = {}
    for name in list(weights):
        match = _LORA.match(name)
        if match:
            sides.setdefault(match["module"], {})[match["side"]] = name
    for name in [name for name in weights if ".base_layer." in name]:
        weights.rename(name, name.replace(".base_layer.", "."))
    for module, names in sides.items():
        target = f"{module}.weight"
        if set(names) != {"A", "B"} or target not in weights:
            raise UserError(f"{source}: {module} has LoRA tensors, but not all of lora_A, lora_B and the weight")
        down, up, shape = (weights.shape(name) for name in (names["A"], names["B"], target))
        if not (len(down) == len(up) == len(shape) == 2 and down[0] == up[1] > 0 and (up[0], down[1]) == shape):
            raise UserError(f"{source}: {module} is {shape}, which LoRA tensors of {down} and {up} do not fit")
        rank = down[0]
        readers = [weights.reader(name) for name in (target, names["A"], names["B"])]
        merged = partial(_with_lora, *readers, scale=alpha / rank, source=f"{source}: LoRA of {module}")
        weights.put(target, weights.shape(target), merged)
        weights.drop(tuple(names.values()))
    return len(sides)


def _with_lora(
    base: Callable[[], Tensor], down: Callable[[], Tensor], up: Callable[[], Tensor], *, scale: float, source: str
) -> Tensor:
    product = up().float() @ down().float()
    if not product.sum().isfinite() and not product.isfinite().all():
        raise UserError(f"{source} contains NaN or infinity; the training that wrote it diverged")
    return base().float() + scale * product


def initialise(model: nn.Module, names: set[str]) -> None:
    """Give the parameters of `names` fresh values, in PyTorch's own way (which is the reference's).

    Modules that set their values in the constructor (the policy's gate at zero, constants, random frequencies) have
    them already.
    """
    for path, module in model.named_modules():
        own = {f"{path}.{name}" for name, _ in module.named_parameters(recurse=False)}
        if own & names and hasattr(module, "reset_parameters"):
            assert own <= names, f"{path} is half new: {own - names}"
            module.reset_parameters()
