"""Train the miniature's two vision encoders before any language: `python -m miniature.vision --help`.

The published models start from a CLIP that recognises what images show and from a SAM that segments what is pointed
at; so does the miniature. CLIP learns to classify its patches: what is there, in which colour and of which size, and
where the centre of that object is. SAM learns the masks of objects (or of the background) from points on them. Scenes
are generated in memory. The encoders are independent: train both at the same time, each on one core.

Legend: I images, S side of the square, P patches, V width of CLIP, C classes, M masks, K points per mask.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groundscore.errors import UserError, run_main
from groundscore.flags import count
from miniature.base import MiniatureSizes, sam_config, vision_config
from miniature.scenes import Scene, random_scene
from miniature.vocabulary import CATEGORIES, COLOURS, LOWER_GROUNDS, SIZES, UPPER_GROUNDS

SCENES, BATCH = 4000, 16
WARM_UP = 100  # steps
PRINT_EVERY = 50  # steps
MASKS, POINTS = 4, 3  # masks per image, points per mask at most
BACKGROUND_SHARE = 0.2  # of the masks
CENTRE_WEIGHT = 4.0

KINDS = (*UPPER_GROUNDS, *LOWER_GROUNDS, *(category.name for category in CATEGORIES))
HUES = (None, *COLOURS)
EXTENTS = (None, *SIZES)
CLASSES = (len(KINDS), len(HUES), len(EXTENTS))


def main(argv: Sequence[str]) -> None:
    """Train one encoder in place; a base whose encoder is trained already stays as it is."""
    parser = argparse.ArgumentParser(prog="python -m miniature.vision", description=__doc__.partition(":")[0] + ".")
    parser.add_argument("encoder", choices=("clip", "sam"), help="which encoder to train")
    parser.add_argument("--base", type=Path, required=True, help="untrained base models, of which it is replaced")
    parser.add_argument("--steps", type=count, default=1500, help=f"optimizer steps of {BATCH} images (1500)")
    parser.add_argument("--lr", type=float, default=2e-3, help="highest learning rate (2e-3)")
    parser.add_argument("--seed", type=count, default=1, help="of the scenes and the initial weights (1)")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    options = parser.parse_args(argv)
    if not (options.base / "llava").is_dir():
        raise UserError(f"--base {options.base} holds no base models; python -m miniature.base --out writes them")
    finished = options.base / f"{options.encoder}.trained"
    if finished.is_file():
        print(f"[miniature] {options.encoder} of {options.base} is trained already")
        return
    torch.manual_seed(options.seed)
    train = train_clip if options.encoder == "clip" else train_sam
    train(options.base, steps=options.steps, lr=options.lr, seed=options.seed)
    finished.write_text(f"{options.steps} steps\n", encoding="utf-8")


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
    pixels and the centre of its largest object."""
    from transformers import CLIPVisionModel

    from model.backbones.llava import padded_clip_states

    sizes = MiniatureSizes()
    tower = CLIPVisionModel(vision_config(sizes))
    heads = nn.ModuleList(nn.Linear(sizes.clip_width, sum(CLASSES) + 2) for _ in range(2))
    images = draw(sizes.clip_image, seed)

    def loss(batch: Images) -> Tensor:
        shares = class_shares(batch, sizes.clip_patch)
        centres, weights = object_centres(batch, sizes.clip_patch)
        states = padded_clip_states(tower, batch.pixels, batch.sizes, [-2, -1])
        total = torch.zeros(())
        for head, state in zip(heads, states):
            *predicted, located = head(state).split((*CLASSES, 2), dim=2)
            for scores, share in zip(predicted, shares):
                total = total - (share * scores.log_softmax(dim=2)).sum() / share.sum()
            distances = (located - centres).abs().sum(dim=2)
            total = total + CENTRE_WEIGHT * (weights * distances).sum() / weights.sum().clamp(min=1)
        return total

    losses = map(loss, images.batches(steps, np.random.default_rng(seed)))
    optimize([*tower.parameters(), *heads.parameters()], losses, name="clip", steps=steps, lr=lr)
    tower.save_pretrained(base / "clip")


def class_shares(batch: Images, patch: int) -> list[Tensor]:
    """[I, P, C] for each of `CLASSES`: the share of a patch's pixels that belong to each class; padding to none."""
    owners = batch.owners.long()
    of_pixels = torch.stack([table[own.clamp(min=0)] for table, own in zip(batch.classes, owners)])  # [I, S, S, 3]
    is_image = (owners >= 0).unsqueeze(-1)
    shares = []
    for index, number in enumerate(CLASSES):
        one_hot = F.one_hot(of_pixels[..., index], number).float() * is_image
        shares.append(F.avg_pool2d(one_hot.permute(0, 3, 1, 2), patch).flatten(2).transpose(1, 2))
    return shares


def object_centres(batch: Images, patch: int) -> tuple[Tensor, Tensor]:
    """The centre [I, P, 2] (x, y, from -1 to 1 over the square) of the largest object in each patch, and its share of
    the patch's pixels [I, P]."""
    owners = batch.owners.long()
    number = int(owners.max()) + 1
    one_hot = F.one_hot(owners.clamp(min=0), number)[..., 2:].float()  # [I, S, S, objects]; no padding in them
    line = torch.linspace(-1, 1, owners.shape[-1])
    areas = one_hot.sum(dim=(1, 2)).clamp(min=1)
    centres = torch.stack(
        [torch.einsum("isto,t->io", one_hot, line) / areas, torch.einsum("isto,s->io", one_hot, line) / areas], dim=2
    )
    shares = F.avg_pool2d(one_hot.permute(0, 3, 1, 2), patch).flatten(2)  # [I, objects, P]
    weights, largest = shares.max(dim=1)
    return torch.gather(centres, 1, largest.unsqueeze(2).expand(-1, -1, 2)), weights


def train_sam(base: Path, *, steps: int, lr: float, seed: int) -> None:
    """Train `base/sam_miniature.pth` to segment the objects (or the background) that points lie on."""
    from checkpoints.names import sam_state_dict_to_original
    from dataloaders.batching.batch import Geometry, ImageGroup
    from model.config import GroundingConfig
    from model.decoders.sam import SamDecoder
    from model.losses import mask_bce, mask_dice

    sizes = MiniatureSizes()
    square = (sizes.sam_image, sizes.sam_image)
    decoder = SamDecoder(GroundingConfig(sam_config=sam_config(sizes)))
    images = draw(sizes.sam_image, seed + 1)
    rng = np.random.default_rng(seed)

    def loss(batch: Images) -> Tensor:
        points, labels, masks = point_prompts(batch, rng)
        image = torch.arange(len(batch.sizes)).repeat_interleave(MASKS)
        geometries = [Geometry(size, (0, 0, *square), True, (1, 1)) for size in batch.sizes]
        features = decoder.encode(ImageGroup(list(range(len(geometries))), batch.pixels, geometries))
        whole = Geometry(square, (0, 0, *square), False, (1, 1))
        (sparse,) = decoder.embed_points([points], [labels], [whole], [square])
        (low_res,) = decoder.decode(features, image, sparse, None)
        logits = F.interpolate(low_res.unsqueeze(1), masks.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
        padding = (batch.owners < 0)[image]
        return 2 * (mask_bce(logits, masks, padding) + mask_dice(logits, masks, padding)).mean()

    losses = map(loss, images.batches(steps, rng))
    optimize(list(decoder.parameters()), losses, name="sam", steps=steps, lr=lr)
    torch.save(sam_state_dict_to_original(decoder.sam.state_dict()), base / "sam_miniature.pth")


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


if __name__ == "__main__":
    run_main(main)
