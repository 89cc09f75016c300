"""The training of the miniature's vision encoders; `vision.py` is the program.

Legend: I images, S side of the square, P patches, V width of CLIP, C classes, M masks, K points per mask.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from miniature.base import sam_config, vision_config
from miniature.language import BOARD
from miniature.scenes import Scene, random_scene
from miniature.sizes import MiniatureSizes
from miniature.vocabulary import CATEGORIES, COLOURS, LOWER_GROUNDS, SIZES, UPPER_GROUNDS

SCENES, BATCH = 4000, 16
WARM_UP = 100  # steps
PRINT_EVERY = 50  # steps
MASKS, POINTS = 4, 3  # masks per image, points per mask at most
BACKGROUND_SHARE = 0.2  # of the masks

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


def draw(side: int, seed: int) -> Images:
    """Generate `SCENES` scenes as squares of `side` pixels."""
    from model.images import fit_and_pad

    pixels, sizes, owners, classes = [], [], [], []
    for scene_seed in np.random.SeedSequence(seed).generate_state(SCENES):
        scene = random_scene(int(scene_seed) >> 1)
        square, geometry = fit_and_pad(scene.image, side, (1, 1))
        size = geometry.size
        pixels.append(square)
        sizes.append(size)
        owners.append(_owners(scene, side, size))
        classes.append(_classes(scene))
    return Images(torch.stack(pixels), sizes, torch.stack(owners), classes)


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
    images = draw(sizes.clip_image, seed)

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
    model, _, _ = load_model(
        base / FOLDER, system="LISA", vision_pretrained=str(base / "sam_miniature.pth"), precision="fp32"
    )
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

    images = draw(sizes.clip_image, seed)
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


def train_sam(base: Path, *, steps: int, lr: float, seed: int) -> None:
    """Train `base/sam_miniature.pth` to segment what is pointed at, what is described and what a coarse map shows."""
    from checkpoints.names import sam_state_dict_to_original
    from dataloaders.batching.batch import Geometry, ImageGroup
    from model.config import GroundingConfig
    from model.decoders.sam import SamDecoder
    from model.losses import mask_bce, mask_dice

    sizes = MiniatureSizes()
    square = (sizes.sam_image, sizes.sam_image)
    whole = Geometry(square, (0, 0, *square), False, (1, 1))
    decoder = SamDecoder(GroundingConfig(sam_config=sam_config(sizes)))
    words = Description(sizes.decoder_width)
    images = draw(sizes.sam_image, seed + 1)
    rng = np.random.default_rng(seed)

    def loss(batch: Images) -> Tensor:
        geometries = [Geometry(size, (0, 0, *square), True, (1, 1)) for size in batch.sizes]
        features = decoder.encode(ImageGroup(list(range(len(geometries))), batch.pixels, geometries))
        points, labels, pointed = point_prompts(batch, rng)
        (clicks,) = decoder.embed_points([points], [labels], [whole], [square])
        attributes, described = description_prompts(batch, rng)
        text = words(attributes)
        maps = coarse_maps(described, batch, sizes.clip_image // sizes.clip_patch, rng)
        unsaid = torch.from_numpy(rng.random(len(text)) < 0.5).view(-1, 1, 1)
        said = torch.where(unsaid, torch.randn_like(text) * text.detach().std(), text)  # the map alone must do
        image = torch.arange(len(batch.sizes)).repeat_interleave(MASKS)
        total = torch.zeros(())
        for sparse, dense, masks in (
            (clicks, None, pointed),
            (text, None, described),
            (said, decoder.mask_prompts([maps]), described),
        ):
            (low_res,) = decoder.decode(features, image, sparse, dense).low_res
            logits = F.interpolate(low_res.unsqueeze(1), masks.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
            padding = (batch.owners < 0)[image]
            total = total + 2 * (mask_bce(logits, masks, padding) + mask_dice(logits, masks, padding)).mean()
        return total

    losses = map(loss, images.batches(steps, rng))
    optimize([*decoder.parameters(), *words.parameters()], losses, name="sam", steps=steps, lr=lr)
    torch.save(sam_state_dict_to_original(decoder.sam.state_dict()), base / "sam_miniature.pth")


class Description(nn.Module):
    """A prompt token [M, 1, C] for attributes int64 [M, 3]: indices in `KINDS`, `HUES` and `EXTENTS`, -1 for any.

    It stands for the `[SEG]` of a language model that is yet to come, and is not kept.
    """

    def __init__(self, width: int):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(number + 1, width) for number in CLASSES)

    def forward(self, attributes: Tensor) -> Tensor:
        """The sum of the attributes' embeddings."""
        parts = zip(self.tables, attributes.unbind(1), strict=True)
        return sum(table(index % table.num_embeddings) for table, index in parts).unsqueeze(1)


def description_prompts(batch: Images, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw `MASKS` descriptions per image, each of some of the attributes of an object or a background in it.

    Returns attributes int64 [M, 3] (see `Description`), and masks bool [M, S, S] of all that they are true of.
    """
    attributes, masks = [], []
    for owners, classes in zip(batch.owners.numpy(), batch.classes):
        present = [owner for owner in np.unique(owners) if owner >= 0]
        objects = [owner for owner in present if owner >= 2]
        for _ in range(MASKS):
            backgrounds = [owner for owner in present if owner < 2]
            owner = int(rng.choice(backgrounds if rng.random() < BACKGROUND_SHARE else objects))
            told = rng.random(3) < (0.85, 0.5, 0.3)
            told[0] |= owner < 2 or not told.any()
            wanted = np.where(told, classes[owner].numpy(), -1)
            if owner < 2:
                wanted[1:] = -1
            matching = [each for each in present if ((classes[each].numpy() == wanted) | (wanted < 0)).all()]
            attributes.append(wanted)
            masks.append(np.isin(owners, matching))
    return torch.from_numpy(np.stack(attributes)), torch.from_numpy(np.stack(masks))


def coarse_maps(masks: Tensor, batch: Images, cells: int, rng: np.random.Generator) -> Tensor:
    """Similarity maps float32 [M, S, S] in [0, 1] as an LLM with `cells` image tokens along a side would draw them of
    masks bool [M, S, S]: blurred, noisy, and with some of the other objects showing through."""
    from model.losses import gaussian_target

    image = torch.arange(len(batch.sizes)).repeat_interleave(MASKS)
    owners = batch.owners[image]
    uniform = lambda high: torch.from_numpy(rng.random(len(masks)) * high).float().view(-1, 1, 1)  # noqa: E731
    shown = torch.where(masks, torch.ones(()), uniform(0.5) * (owners >= 2))
    coarse = F.adaptive_avg_pool2d(gaussian_target(shown), cells)
    coarse = coarse + uniform(0.25) * torch.from_numpy(rng.standard_normal(coarse.shape)).float()
    low, high = coarse.amin(dim=(1, 2), keepdim=True), coarse.amax(dim=(1, 2), keepdim=True)
    coarse = ((coarse - low) / (high - low)).unsqueeze(1)
    return F.interpolate(coarse, masks.shape[-2:], mode="bilinear", align_corners=False)[:, 0] * (owners >= 0)


def point_prompts(batch: Images, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw `MASKS` prompts per image, each of one to three objects or of one background.

    Returns points float32 [M, K, 2] (x, y), a random one on each object; labels int64 [M, K]: 1 inside, -1 unused;
    masks bool [M, S, S].
    """
    points, labels, masks = [], [], []
    for owners in batch.owners.numpy():
        present = [owner for owner in np.unique(owners) if owner >= 0]
        objects = [owner for owner in present if owner >= 2]
        for _ in range(MASKS):
            if rng.random() < BACKGROUND_SHARE:
                chosen = [int(rng.choice([owner for owner in present if owner < 2]))]
            else:
                number = int(rng.choice((1, 2, 3), p=(0.65, 0.25, 0.1)))
                chosen = rng.permutation(objects)[:number].tolist()
            at, kind = np.zeros((POINTS, 2), np.float32), np.full(POINTS, -1)
            for index, owner in enumerate(chosen):
                rows, columns = np.nonzero(owners == owner)
                pixel = int(rng.integers(len(rows)))
                at[index], kind[index] = (columns[pixel], rows[pixel]), 1
            points.append(at)
            labels.append(kind)
            masks.append(np.isin(owners, chosen))
    return tuple(torch.from_numpy(np.stack(each)) for each in (points, labels, masks))


def train_encoder(encoder: str, base: Path, *, steps: int, lr: float, seed: int) -> None:
    """Trains the encoder "clip", "qwen3_vl" or "sam" of the base models in `base`, in place."""
    torch.manual_seed(seed)
    train = {"clip": train_clip, "qwen3_vl": train_qwen, "sam": train_sam}[encoder]
    train(base, steps=steps, lr=lr, seed=seed)
