"""MaskDecoder: prompts to masks, as everything above it sees it.

A member is one file with a subclass of `MaskDecoder` and one line in `decoders/__init__.py`; docs/adding_a_decoder.md
shows one. Nothing outside that file knows how its model is built.

Legend: I images, S targets, m targets of one group (an image, or an answer), K prompt tokens, k points, C width of a
prompt token, M side of a mask prompt, h w size of low-resolution masks, H W size of an original image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import PreTrainedConfig, SamConfig

from dataloaders.batching.batch import Geometry, ImageGroup, ImagePreparation
from groundscore.errors import UserError
from model.decoders.published import Published

INSIDE, OUTSIDE, NEITHER = 1, 0, -1  # labels of points
UPPER_LEFT, LOWER_RIGHT = 2, 3  # corners of a box


@dataclass
class DecodedTargets:
    """What a mask decoder gives for S targets.

    low_res: mask logits [S, h, w], one tensor for each scale. object_scores [S]: logits of there being an object at
    all, apart from where it is; None where the decoder has none.
    """

    low_res: list[Tensor]
    object_scores: Tensor | None = None


class MaskDecoder(nn.Module):
    """Base of the mask decoders.

    The names of its child modules are the first parts of the names in a checkpoint: the model that is built on it has
    the same children. It has no parameters of its own beside them.

    encoder_name: what its image encoder is called in messages. `config` is always the model's `GroundingConfig`.
    parts: names of modules by what they are: "encoder", "prompt" and "decoder".
    config_class: of `GroundingConfig.sam_config`, the configuration of its model.
    takes_points: whether points and boxes can prompt it.
    published: how weights of its model are published, which `--vision_pretrained` then takes; None: nowhere. Its child
        that holds them is `sam`.
    """

    encoder_name: ClassVar[str] = "image encoder"
    parts: ClassVar[dict[str, tuple[str, ...]]] = {}
    config_class: ClassVar[type[PreTrainedConfig]] = SamConfig
    takes_points: ClassVar[bool] = False
    published: ClassVar[Published | None] = None

    @classmethod
    def depths(cls, config: PreTrainedConfig) -> dict[str, int]:
        """Numbers of layers by the module that holds them: a checkpoint must have as many before they are built."""
        return {}

    @classmethod
    def scales(cls, config: PreTrainedConfig) -> int:
        """How many feature maps of the backbone it decodes from; 0 where it encodes images itself."""
        return 0

    @classmethod
    def preparation(cls, config: PreTrainedConfig) -> ImagePreparation | None:
        """What prepares an image for `encode`, always to one shape; None where it reads the backbone's features."""
        raise NotImplementedError

    # --- images

    @property
    def encoder(self) -> nn.Module | None:
        """The module whose work `encode` is, or None; while it is frozen its features may be cached."""
        return None

    def encoder_settings(self) -> dict[str, Any]:
        """What `encode` gives depends on, beside the encoder's weights and the image: values that JSON can hold."""
        return {"encoder": self.encoder_name}

    def encode(self, images: ImageGroup | list[Tensor]) -> list[Tensor]:
        """Features of all images of a batch, one or several tensors [I, …].

        images: prepared images, or as many maps [I, C, rows, columns] of the backbone as `scales` says.
        """
        raise NotImplementedError

    # --- prompts

    def mask_prompts(self, maps: Sequence[Tensor]) -> Tensor:
        """Mask prompts [S, 1, M, M] of the similarity maps [m, H, W] in [0, 1] of all groups of targets."""
        raise UserError(f"{type(self).__name__} takes no masks as prompts: set mask_prompt to false")

    def embed_points(
        self,
        points: Sequence[Tensor],
        labels: Sequence[Tensor],
        geometries: Sequence[Geometry],
        sizes: Sequence[tuple[int, int]],
        boxes: Sequence[Tensor] | None = None,
    ) -> list[Tensor]:
        """Prompt tokens [m, K, C] of the points of each group of targets and, where there are any, of its boxes.

        points: [m, k, 2] (x, y) in pixels of the original image; labels: [m, k], one of `INSIDE`, `OUTSIDE` and
        `NEITHER` (whose location says nothing); geometries, sizes: of each group's prepared and original image.
        boxes: [m, 4], (left, top, right, bottom) in pixels of the original image.
        """
        raise UserError(f"{type(self).__name__} takes no points or boxes as prompts; ask in words")

    # --- masks

    def decode(
        self, features: list[Tensor], image: Tensor, sparse: Tensor | list[Tensor], dense: Tensor | None
    ) -> DecodedTargets:
        """Low-resolution masks of all targets.

        features: from `encode`; image int64 [S]: the image of each target; sparse: prompt tokens [S, K, C], or a list
        of such tensors for consecutive targets; dense: mask prompts [S, 1, M, M], or None for "no mask given".
        """
        raise NotImplementedError

    def fuse(self, low_res: list[Tensor]) -> Tensor:
        """The logits [S, h, w] that are a target's mask, from the scales of `decode`."""
        return low_res[-1]

    def upscale(self, logits: Tensor, geometry: Geometry, size: tuple[int, int]) -> Tensor:
        """Mask logits float32 [m, H, W] at the original size, from fused ones [m, h, w].

        geometry: of the prepared image, the backbone's where it reads its features; size: (H, W).
        """
        raise NotImplementedError

    def compiled_parts(self) -> dict[str, nn.Module]:
        """Modules to compile, by name: those whose shapes change with the number of images alone."""
        return {}
