"""READ (Qian et al., CVPR 2025): LISA plus similarity as points.

Tokens: `[SEG]`. States: the last. Prompts: up to 60 points where the `[SEG]` state resembles the image tokens most and
least, and the text token. Own losses: none; the points are differentiable.
"""

import torch

from model.decoders.sam import embed_points
from model.points import PointRule, points_on_image
from model.similarity import map_on_cropped_image, map_on_padded_image, normalize_scores, similarities
from model.systems.base import Prompt, System


class READ(System):
    def prompt(self, model, states, batch, layer, layer_choice=None):
        config = self.config
        seg, tokens = states.chosen(states.last_layer)
        text = model.text_hidden_fcs(seg).unsqueeze(1)
        similarity = similarities(seg, tokens)
        rule = PointRule(
            config.read_num_points,
            config.read_t_pos,
            config.read_t_neg,
            config.read_down_sample,
            config.read_point_space,
        )
        cropped = config.map_geometry == "fit" and not config.pad_train_clip_images
        place = map_on_cropped_image if cropped else map_on_padded_image
        maps, chosen_points, framed, texts, start = [], [], [], [], 0
        for image, count in zip(states.groups, states.counts, strict=True):
            group, size = slice(start, start + count), batch.original_sizes[image]
            start += count
            maps.append(place(normalize_scores(similarity[group]), size))
            if count:
                points, labels = points_on_image(similarity[group], size, rule, cropped=cropped)
                chosen_points.append((points, labels))
                height, width = batch.sam_sizes[image]
                x, y = points.unbind(-1)
                framed.append(torch.stack([x * (width / size[1]), y * (height / size[0])], dim=-1))
                texts.append(text[group])
        tokens = embed_points(model.sam, framed, [labels for _, labels in chosen_points])
        return Prompt(
            text=text,
            sparse=[torch.cat(both, dim=1) for both in zip(tokens, texts, strict=True)],
            dense=None,
            layers=torch.full_like(states.image, states.last_layer),
            maps=maps,
            points=chosen_points,
        )
