"""READ (Qian et al., CVPR 2025): LISA plus similarity as points.

Tokens: one `[SEG]` per target. States: the last. Prompts: up to 60 points where the `[SEG]` state resembles the image
tokens most and least, and the text token. Own losses: none; the points are differentiable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from groundscore.errors import UserError
from model.systems.base import Prompt, System
from utils.settings import number, option, whole

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from dataloaders.batching.batch import Batch
    from model.points import PointRule
    from model.states import TargetStates


@dataclass
class READSettings:
    """How points are chosen from a similarity map."""

    read_num_points: int = option(
        60, "model", "READ: maximum number of points per target", check=whole(1, 10**4), stored=True, inference=True
    )
    read_t_pos: float = option(
        0.8, "model", "READ: minimum similarity of positive points", check=number(0, 1), stored=True, inference=True
    )
    read_t_neg: float = option(
        0.2, "model", "READ: maximum similarity of negative points", check=number(0, 1), stored=True, inference=True
    )
    read_down_sample: int = option(
        1,
        "model",
        "READ: factor by which the grid of points is coarser than the image tokens",
        check=whole(1, 256),
        stored=True,
        inference=True,
    )
    read_point_space: str = option(
        "grid",
        "model",
        "READ: refine points on that grid, or in pixels as READ's own code does",
        choices=("grid", "pixel"),
        stored=True,
        inference=True,
    )


class READ(System):
    """`[SEG]`'s last state, projected, and points of its similarity map prompt SAM."""

    settings = READSettings
    uses_points = True

    def prompt(
        self,
        model: PreTrainedModel,
        states: TargetStates,
        batch: Batch,
        layer: str | int,
        layer_choice: Tensor | None = None,
    ) -> Prompt:
        """Returns points and a text token per target; `layer` does not matter."""
        import torch

        from model.points import points_on_image
        from model.similarity import normalize_scores, similarities

        seg, cells = states.chosen(states.last_layer)
        text = model.text_hidden_fcs(seg).unsqueeze(1)  # [S, 1, C]
        scores = similarities(seg, cells)  # [S, P]
        groups = zip(
            scores.split(states.counts), text.split(states.counts), self.geometries(states), states.groups, states.sizes
        )
        points, texts, prepared, sizes = [], [], [], []
        for of_group, text_of_group, geometry, image, size in groups:
            if len(of_group):
                points.append(points_on_image(of_group, geometry, size, self.point_rule))
                texts.append(text_of_group)
                prepared.append(batch.decoder_images.geometries[image])
                sizes.append(size)
        tokens = model.decoder.embed_points(*zip(*points, strict=True), prepared, sizes)  # [m, K, C] each
        return Prompt(
            text=text,
            sparse=[torch.cat(both, dim=1) for both in zip(tokens, texts, strict=True)],
            layers=states.at_every_target(states.last_layer),
            maps=self.similarity_maps(normalize_scores(scores), states),
            points=points,
        )

    def check(self) -> None:
        """Raises `UserError` for points that exclude each other or do not fit the grid of image tokens."""
        config = self.config
        if config.image_grid is not None and config.read_down_sample > config.image_grid:
            raise UserError(
                f"--read_down_sample {config.read_down_sample}: the LLM has {config.image_grid} image tokens along "
                "a side"
            )
        if config.read_t_neg >= config.read_t_pos:
            raise UserError(
                f"--read_t_neg {config.read_t_neg}: must be below --read_t_pos, which is {config.read_t_pos}"
            )

    @property
    def point_rule(self) -> PointRule:
        """How points are chosen, from the settings."""
        from model.points import PointRule

        config = self.config
        return PointRule(
            count=config.read_num_points,
            positive=config.read_t_pos,
            negative=config.read_t_neg,
            down_sample=config.read_down_sample,
            space=config.read_point_space,
        )
