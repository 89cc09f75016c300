"""Images and text as a model takes them: sizes and layout come from its configuration, all images stay uint8.

Normalisation, and zeroing the padding after it, happens on the device.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dataloaders.batching.conversation import SYSTEM_TEXTS
from dataloaders.batching.target_tokens import collapse_targets
from dataloaders.batching.tokenization import GroundingTokenizer
from groundscore.annotations.images import check_image
from groundscore.errors import UserError
from groundscore.reading import read_json

if TYPE_CHECKING:
    from model.config import GroundingConfig

SETTINGS_FILE = "preprocessor_config.json"


@dataclass(frozen=True)
class ImageSettings:
    """What the processor must know of a model.

    sam_image_size: side of SAM's square; 0 for a model that has no SAM.
    clip_image_size: side of CLIP's square.
    num_image_tokens: P, image tokens of the LLM.
    pad_clip_images: CLIP sees the whole image, padded, instead of its centre crop.
    conv_type: conversation template, a key of `dataloaders.batching.conversation.SYSTEM_TEXTS`.
    """

    sam_image_size: int
    clip_image_size: int
    num_image_tokens: int
    pad_clip_images: bool = False
    conv_type: str = "llava_v1"

    @classmethod
    def from_config(cls, config: "GroundingConfig") -> "ImageSettings":
        from model.systems import build_system

        return cls(
            sam_image_size=config.sam_config.vision_config.image_size if build_system(config).uses_sam else 0,
            clip_image_size=config.clip_image_size,
            num_image_tokens=config.num_image_tokens,
            pad_clip_images=config.pad_train_clip_images,
            conv_type=config.conv_type,
        )


class GroundingProcessor:
    """Tokenizer and image sizes of one model.

    config: the model's configuration, or the settings alone.
    """

    def __init__(self, config: "GroundingConfig | ImageSettings", tokenizer: GroundingTokenizer):
        self.settings = config if isinstance(config, ImageSettings) else ImageSettings.from_config(config)
        self.tokenizer = tokenizer

    @property
    def num_image_tokens(self) -> int:
        return self.settings.num_image_tokens

    def sam_image(self, rgb: np.ndarray) -> tuple[Tensor, tuple[int, int]]:
        """The longest side fills SAM's square; zeros fill it up at the right and the bottom.

        rgb uint8 [H, W, 3] → uint8 [3, S, S], and (height, width) of the part that is image. Without a SAM S is 0.
        """
        if self.settings.sam_image_size == 0:
            return torch.zeros(3, 0, 0, dtype=torch.uint8), (0, 0)
        return fit_and_pad(rgb, self.settings.sam_image_size)

    def clip_image(self, rgb: np.ndarray) -> tuple[Tensor, tuple[int, int]]:
        """The centre crop that CLIP was trained on, or the whole image padded, as the model was trained.

        rgb uint8 [H, W, 3] → uint8 [3, C, C], and (height, width) of the part that is image.
        """
        if self.settings.pad_clip_images:
            return fit_and_pad(rgb, self.settings.clip_image_size)
        return _fill_and_crop(rgb, self.settings.clip_image_size)

    def decode(self, ids) -> str:
        """What a model wrote, with `[SEG]` and `[REJ]` once per target."""
        return collapse_targets(self.tokenizer.decode(ids), self.tokenizer.tokens_per_target)

    @classmethod
    def from_pretrained(cls, directory: str | Path, **_unused) -> "GroundingProcessor":
        """Read what `save_pretrained` wrote; `directory` may be a hub id. `AutoProcessor` passes more than is used."""
        from checkpoints.hub import find_model

        directory = find_model(directory, "the processor of")
        path = directory / SETTINGS_FILE
        if not path.is_file():
            raise UserError(f"{directory} has no {SETTINGS_FILE}; it is not a directory that this program saved")
        values = read_json(path, missing="it belongs to a model that this program saved")
        return cls(_settings_of(values, path), GroundingTokenizer.from_directory(directory))

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the tokenizer's files and `preprocessor_config.json`."""
        directory = Path(directory)
        self.tokenizer.save(directory)
        values = {"processor_class": type(self).__name__, **asdict(self.settings)}
        (directory / SETTINGS_FILE).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _settings_of(values: object, source: Path) -> ImageSettings:
    """The settings in a `preprocessor_config.json`, each of its type and in its range."""
    from checkpoints.config_checks import FLAG, SIDE, check_values, one_of, whole

    rules = {
        "sam_image_size": whole(0, 2**13),
        "clip_image_size": SIDE,
        "num_image_tokens": whole(1, 2**16),
        "pad_clip_images": FLAG,
        "conv_type": one_of(*SYSTEM_TEXTS),
    }
    if not isinstance(values, dict):
        raise UserError(f"{source} must contain a JSON object, but contains a {type(values).__name__}")
    values = {"conv_type": "llava_v1", **values}  # directories of before there was a choice
    missing = [name for name in rules if name not in values]
    if missing:
        raise UserError(f"{source} does not contain the settings of a grounding model: it has no {missing[0]}")
    return ImageSettings(**check_values(rules, values, str(source)))


def fitted_size(height: int, width: int, side: int) -> tuple[int, int]:
    """(height, width) after scaling the longest side to `side`, rounded half up, at least one pixel."""
    scale = side / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def fit_and_pad(rgb: np.ndarray, side: int) -> tuple[Tensor, tuple[int, int]]:
    """Bilinear to the longest side, zeros at the right and the bottom."""
    check_image(rgb)
    height, width = fitted_size(rgb.shape[0], rgb.shape[1], side)
    square = torch.zeros(3, side, side, dtype=torch.uint8)
    square[:, :height, :width] = _resized(rgb, height, width, Image.Resampling.BILINEAR)
    return square, (height, width)


def _fill_and_crop(rgb: np.ndarray, side: int) -> tuple[Tensor, tuple[int, int]]:
    """Bicubic to the shortest side, then the centre: the pixels of transformers' `CLIPImageProcessorPil`."""
    check_image(rgb)
    height, width = rgb.shape[:2]
    if width <= height:
        height, width = int(side * height / width), side
    else:
        height, width = side, int(side * width / height)
    top, left = (height - side) // 2, (width - side) // 2
    resized = _resized(rgb, height, width, Image.Resampling.BICUBIC)
    return resized[:, top : top + side, left : left + side].contiguous(), (side, side)


def _resized(rgb: np.ndarray, height: int, width: int, resampling: Image.Resampling) -> Tensor:
    """uint8 [H, W, 3] → uint8 [3, height, width]."""
    resized = Image.fromarray(rgb).resize((width, height), resampling)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)
