"""The training of the encoders that an LLM sees images with, and the scenes as all of them see them; `vision.py` is the
program, `segmenters.py` trains the mask decoders.

Legend: I images, S side of the square, P patches, C classes.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dataloaders.batching.batch import ImagePreparation
from miniature.base import vision_config
from miniature.language import BOARD
from miniature.programs import parts_of
from miniature.scenes import Scene, random_scene
from miniature.sizes import MiniatureSizes
from miniature.vocabulary import CATEGORIES, COLOURS, LOWER_GROUNDS, SIZES, UPPER_GROUNDS

SCENES, BATCH = 4000, 16
WARM_UP = 100  # steps
PRINT_EVERY = 50  # steps

KINDS = (*UPPER_GROUNDS, *LOWER_GROUNDS, *(category.name for category in CATEGORIES))
HUES = (None, *COLOURS)
EXTENTS = (None, *SIZES)
CLASSES = (len(KINDS), len(HUES), len(EXTENTS))
PATCH_CLASSES = (*CLASSES, BOARD + 1, BOARD + 1)  # also the square of the board, 0 for none


@dataclass
class Images:
    """Scenes as squares.

    pixels uint8 [I, 3, S, S]; sizes: (height, width) of the image inside each square; owners int8 [I, S, S]: -1
    padding, 0 upper and 1 lower background, k + 2 object k; classes: int64 [2 + objects, 3] per image, the indices in
    `KINDS`, `HUES` and `EXTENTS` of each owner.
    """

    pixels: Tensor
    sizes: list[tuple[int, int]]
    owners: Tensor
    classes: list[Tensor]

    def batches(self, steps: int, rng: np.random.Generator) -> Iterator["Images"]:
        """Yield `steps` shuffled batches, half of their images mirrored."""
        order: list[int] = []
        for _ in range(steps):
            if len(order) < BATCH:
                order = rng.permutation(len(self.pixels)).tolist()
            chosen, order = order[:BATCH], order[BATCH:]
            pixels, owners = self.pixels[chosen], self.owners[chosen]
            sizes = [self.sizes[index] for index in chosen]
            for index, (_, width) in enumerate(sizes):
                if rng.random() < 0.5:
                    pixels[index, :, :, :width] = pixels[index, :, :, :width].flip(-1)
                    owners[index, :, :width] = owners[index, :, :width].flip(-1)
            yield Images(pixels, sizes, owners, [self.classes[index] for index in chosen])


def draw(prepare: ImagePreparation, seed: int) -> Images:
    """Generate `SCENES` scenes, each as the square that `prepare` makes of an image."""
    pixels, sizes, owners, classes = [], [], [], []
    for scene_seed in np.random.SeedSequence(seed).generate_state(SCENES):
        scene = random_scene(int(scene_seed) >> 1)
        square, geometry = prepare(scene.image)
        pixels.append(square)
        sizes.append(geometry.size)
        owners.append(_owners(scene, square.shape[-1], geometry.size))
        classes.append(_classes(scene))
    return Images(torch.stack(pixels), sizes, torch.stack(owners), classes)


def padded(side: int) -> ImagePreparation:
    """What fits an image into the upper left corner of a square of `side` pixels."""
    from model.images import fit_and_pad

    return lambda rgb: fit_and_pad(rgb, side, (1, 1))


def _owners(scene: Scene, side: int, size: tuple[int, int]) -> Tensor:
    """int8 [S, S] as in `Images`, by nearest resampling to `size`."""
    objects = scene.drawing.owners.astype(np.int8)
    owners = np.where(objects > 0, objects + 1, 0)
    owners[scene.horizon :] = np.maximum(owners[scene.horizon :], 1)
    rows = ((np.arange(size[0]) + 0.5) * scene.height / size[0]).astype(int)
    columns = ((np.arange(size[1]) + 0.5) * scene.width / size[1]).astype(int)
    square = torch.full((side, side), -1, dtype=torch.int8)
    square[: size[0], : size[1]] = torch.from_numpy(owners[rows][:, columns])
    return square


def _classes(scene: Scene) -> Tensor:
    """int64 [2 + objects, 3] as in `Images`."""
    backgrounds = [(KINDS.index(scene.upper), 0, 0), (KINDS.index(scene.lower), 0, 0)]
    objects = [
        (KINDS.index(thing.category), HUES.index(thing.colour), EXTENTS.index(thing.size)) for thing in scene.objects
    ]
    return torch.tensor(backgrounds + objects)


def optimize(parameters: list[nn.Parameter], losses: Iterator[Tensor], *, name: str, steps: int, lr: float) -> None:
    """Minimise the losses in turn with AdamW, after a warm-up with linear decay, and print their means."""
    optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    scale = lambda step: min((step + 1) / WARM_UP, (steps - step) / steps)  # noqa: E731
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
    began, total = time.monotonic(), 0.0
    for step, loss in enumerate(losses, start=1):
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        total += loss.item()
        if step % PRINT_EVERY == 0:
            speed = step * BATCH / (time.monotonic() - began)
            print(f"{name}  step {step}/{steps}  loss {total / PRINT_EVERY:.4f}  {speed:.1f} samples/s", flush=True)
            total = 0.0


def train_clip(base: Path, *, steps: int, lr: float, seed: int) -> None:
    """Train `base/clip`: linear heads on its last two states predict, for every patch, the share of each class in its
    pixels, and which column and row of patches it is in."""
    from transformers import CLIPVisionModel

    from model.backbones.llava import padded_clip_states

    sizes = MiniatureSizes()
    tower = CLIPVisionModel(vision_config(sizes))
    cells = sizes.clip_image // sizes.clip_patch
    numbers = (*PATCH_CLASSES, cells, cells)
    heads = nn.ModuleList(nn.Linear(sizes.clip_width, sum(numbers)) for _ in range(2))
    images = draw(padded(sizes.clip_image), seed)

    def loss(batch: Images) -> Tensor:
        shares = class_shares(batch, sizes.clip_patch)
        is_image = shares[0].sum(dim=2, keepdim=True)
        shares += [own * is_image for own in own_places(cells)]
        states = padded_clip_states(tower, batch.pixels, batch.sizes, [-2, -1])
        total = torch.zeros(())
        for head, state in zip(heads, states):
            for scores, share in zip(head(state).split(numbers, dim=2), shares, strict=True):
                total = total - (share * scores.log_softmax(dim=2)).sum() / share.sum()
        return total

    losses = map(loss, images.batches(steps, np.random.default_rng(seed)))
    optimize([*tower.parameters(), *heads.parameters()], losses, name="clip", steps=steps, lr=lr)
    tower.save_pretrained(base / "clip")


def train_qwen(base: Path, *, steps: int, lr: float, seed: int) -> None:
    """Train the image encoder of `base/qwen3_vl`: a linear head on its tokens, and one on the features of each layer of
    DeepStack, predict for every cell what `train_clip` lets CLIP's patches predict."""
    from transformers import Qwen3VLForConditionalGeneration

    from checkpoints import load_model
    from dataloaders.batching.batch import Geometry, ImageGroup
    from miniature.qwen import DEEPSTACK, FOLDER, MERGE, PATCH

    sizes, cell = MiniatureSizes(), PATCH * MERGE
    model, _, _ = load_model(base / FOLDER, system="LISA", vision_pretrained=str(parts_of(base)[1]), precision="fp32")
    encoder = model.backbone.encoder.train().requires_grad_(True)
    cells = sizes.clip_image // cell
    numbers = (*PATCH_CLASSES, cells, cells)
    width = model.config.text_config.hidden_size
    heads = nn.ModuleList(nn.Linear(width, sum(numbers)) for _ in range(1 + len(DEEPSTACK)))
    square = (sizes.clip_image, sizes.clip_image)
    whole = Geometry(square, (0, 0, *square), False, (cells, cells), cells * cells, axes=3)

    def loss(batch: Images) -> Tensor:
        shares = class_shares(batch, cell)
        is_image = shares[0].sum(dim=2, keepdim=True)
        shares += [own * is_image for own in own_places(cells)]
        count = len(batch.pixels)
        states = model.backbone.encode(ImageGroup(list(range(count)), batch.pixels, [whole] * count))
        total = torch.zeros(())
        for head, state in zip(heads, states, strict=True):
            for scores, share in zip(head(state).split(numbers, dim=2), shares, strict=True):
                total = total - (share * scores.log_softmax(dim=2)).sum() / share.sum()
        return total

    images = draw(padded(sizes.clip_image), seed)
    losses = map(loss, images.batches(steps, np.random.default_rng(seed)))
    optimize([*encoder.parameters(), *heads.parameters()], losses, name=FOLDER, steps=steps, lr=lr)
    theirs = Qwen3VLForConditionalGeneration.from_pretrained(base / FOLDER, dtype=torch.float32)
    theirs.model.visual.load_state_dict(encoder.state_dict())
    theirs.half().save_pretrained(base / FOLDER)


def class_shares(batch: Images, patch: int) -> list[Tensor]:
    """[I, P, C] for each of `PATCH_CLASSES`: the share of a patch's pixels that belong to each class; padding to
    none."""
    owners = batch.owners.long()
    tables = [torch.cat(parts, dim=1) for parts in zip(batch.classes, squares(batch))]
    of_pixels = torch.stack([table[own.clamp(min=0)] for table, own in zip(tables, owners)])  # [I, S, S, 5]
    is_image = (owners >= 0).unsqueeze(-1)
    shares = []
    for index, number in enumerate(PATCH_CLASSES):
        one_hot = F.one_hot(of_pixels[..., index], number).float() * is_image
        shares.append(F.avg_pool2d(one_hot.permute(0, 3, 1, 2), patch).flatten(2).transpose(1, 2))
    return shares


def own_places(cells: int) -> tuple[Tensor, Tensor]:
    """Column and row of every patch, one-hot [P, cells], of `cells` a side."""
    line = torch.eye(cells)
    return line.repeat(cells, 1), line.repeat_interleave(cells, dim=0)


def squares(batch: Images) -> list[Tensor]:
    """int64 [2 + objects, 2] per image: column and row, from 1, of the square of the board on which the centre of each
    owner lies; 0 for backgrounds. What is told in classes, an LLM reads as easily as a colour."""
    found = []
    for owners, classes in zip(batch.owners, batch.classes):
        table = torch.zeros(len(classes), 2, dtype=torch.int64)
        for owner in range(2, len(classes)):
            rows, columns = torch.nonzero(owners == owner, as_tuple=True)
            if len(rows):
                centre = torch.stack([columns, rows]).float().mean(dim=1) + 0.5
                table[owner] = (centre * BOARD / owners.shape[-1]).long() + 1
        found.append(table)
    return found
