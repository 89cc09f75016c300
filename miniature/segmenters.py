"""The training of the miniature's mask decoders, encoder and all; `vision.py` is the program.

Legend: I images, S side of the square, M masks, K points per mask, C width of a prompt token.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from miniature.decoders import untrained_decoder, write_decoder
from miniature.encoders import CLASSES, Images, draw, optimize
from miniature.sizes import MiniatureSizes

MASKS, POINTS = 4, 3  # masks per image, points per mask at most
BACKGROUND_SHARE = 0.2  # of the masks
ABSENT_SHARE = 0.25  # of the descriptions, where a decoder scores whether there is an object


def train_segmenter(name: str, base: Path, *, steps: int, lr: float, seed: int) -> None:
    """Train the mask decoder `name` of `base` to segment what is pointed at, what is described and what a coarse map
    shows; one that scores whether there is an object learns that, too."""
    from dataloaders.batching.batch import Geometry, ImageGroup
    from model.config import GroundingConfig
    from model.decoders import DECODERS
    from model.losses import mask_bce, mask_dice

    sizes = MiniatureSizes()
    untrained = untrained_decoder(name, sizes)
    config = GroundingConfig(mask_decoder=name, sam_config=untrained.config)
    decoder = DECODERS[name](config)
    decoder.sam.load_state_dict(untrained.state_dict())
    images = draw(decoder.preparation(config), seed + 1)
    square = tuple(images.pixels.shape[-2:])
    whole = Geometry(square, (0, 0, *square), False, (1, 1))
    words = Description(sizes.decoder_width)
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
        padding = (batch.owners < 0)[image]
        prompts = ((clicks, None), (text, None), (said, decoder.mask_prompts([maps])))
        decoded = [decoder.decode(features, image, sparse, dense) for sparse, dense in prompts]
        total = torch.zeros(())
        for one, masks in zip(decoded, (pointed, described, described), strict=True):
            (low_res,) = one.low_res
            logits = F.interpolate(low_res.unsqueeze(1), masks.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
            total = total + 2 * (mask_bce(logits, masks, padding) + mask_dice(logits, masks, padding)).mean()
        if decoded[0].object_scores is not None:
            asked, present = elsewhere(attributes, batch, rng)
            scores = decoder.decode(features, image, words(asked), None).object_scores
            total = total + F.binary_cross_entropy_with_logits(scores, present.float())
        return total

    losses = map(loss, images.batches(steps, rng))
    optimize([*decoder.parameters(), *words.parameters()], losses, name=name, steps=steps, lr=lr)
    write_decoder(base, decoder.sam)


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


def elsewhere(attributes: Tensor, batch: Images, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Descriptions int64 [M, 3], `ABSENT_SHARE` of them taken from another image of the batch, and bool [M]: whether
    there is anything in the image that each is true of."""
    asked = torch.where(
        torch.from_numpy(rng.random(len(attributes)) < ABSENT_SHARE).unsqueeze(1), attributes.roll(MASKS, 0), attributes
    )
    present = []
    for index, wanted in enumerate(asked):
        owners = batch.owners[index // MASKS].unique().long()
        classes = batch.classes[index // MASKS][owners[owners >= 0]]
        present.append(((classes == wanted) | (wanted < 0)).all(dim=1).any())
    return asked, torch.stack(present)


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
