"""The model card of a saved model: the `README.md` that the hub shows."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from groundscore.scoring import percent
from model.backbones import backbone_of
from model.config import GroundingConfig
from model.systems import build_system

PAPER = "https://arxiv.org/abs/2510.03853"
SCORES_HEADING = "Scores while training:"
Scores = Mapping[str, Mapping[str, float | None]]

_CARD = """\
---
library_name: transformers
pipeline_tag: image-segmentation
tags:
- uground
- visual-grounding
- referring-segmentation
- reasoning-segmentation
{base_model}---

# {title}

A question about an image is answered in words and masks: every `[SEG]` of the answer becomes a mask.
{picture}
| | |
|---|---|
| system | {system} |
| base | {base} |
| language model | {layers} layers, width {width}, {rows} tokens |
| {encoder} | {images} |
| masks from | {decoder} |

{scores}

## Use

The directory (or its hub id) contains everything: weights with {encoder} and SAM, tokenizer, image settings.

```bash
{chat}
python eval.py --version {name} --dataset_dir dataset --val_dataset "ReasonSeg|val" --answer given
```

```python
from checkpoints import load_model

model, processor, report = load_model("{name}")
```

Paper: [UGround: Towards Unified Visual Grounding with Unrolled Transformers]({paper}).
The weights are bound by the licences of the base models and of the training data.
"""


@dataclass(frozen=True)
class CardExample:
    """What a card shows of the examples beside a model: the image of its answers, and one image with its question.

    answers, image: paths from the model's directory on.
    """

    answers: str
    image: str
    prompt: str


def model_card(
    config: GroundingConfig,
    name: str,
    *,
    base: str | None = None,
    scores: Scores | None = None,
    report: str | None = None,
    example: CardExample | None = None,
) -> str:
    """Markdown with the hub's metadata.

    name: directory or hub id; of an absolute directory only the last part is told. base: what training started from, a
    path of which only the last part is told. scores: split -> metric -> value in 0..1, as training recorded them.
    report: a table of scores, as `groundscore.scoring.tables` writes it. example: beside the model.
    """
    name = Path(name).name if name.startswith(("/", ".", "~")) else name
    photo = f"{name}/{example.image}" if example else "photo.jpg"
    prompt = example.prompt if example else "Which of these could hold hot tea?"
    chat = shlex.join(["python", "chat.py", "--version", name, "--image", photo, "--prompt", prompt])
    is_hub_id = (
        base is not None and base.count("/") == 1 and not base.startswith((".", "~")) and not Path(base).exists()
    )
    text, backbone, decoder = config.text_config, backbone_of(config), build_system(config).decoder()
    return _CARD.format(
        base_model=f"base_model: {base}\n" if is_hub_id else "",
        title=Path(name).name,
        name=name,
        picture=f"\n![Questions about images, and the masks that this model answers with]({example.answers})\n"
        if example
        else "",
        chat=chat,
        system=config.system,
        base="not recorded" if base is None else base if is_hub_id else Path(base).name,
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        rows=text.vocab_size,
        encoder=backbone.encoder_name,
        images=backbone.image_summary(config),
        decoder="CLIP's features (a decoder of its own)" if decoder.scales(config) else decoder.encoder_name,
        scores="\n\n".join(_score_tables(scores, report)) or "No scores were recorded with it.",
        paper=PAPER,
    )


def split_of_card(card: str) -> str | None:
    """Returns the split that a model was selected on by its card, the first of its scores; None where it has none."""
    found = re.search(rf"^{SCORES_HEADING}\n\n.*\n.*\n\| (.*?) \| (?:[\d.-]+|none) \|", card, re.MULTILINE)
    return found and found.group(1).replace("\\|", "|")


def _score_tables(scores: Scores | None, report: str | None) -> list[str]:
    """The scores that training recorded, and those of a report."""
    tables = [_score_table(scores)] if scores else []
    return tables + ([f"Scores of `eval.py`:\n\n{report}"] if report else [])


def _score_table(scores: Scores) -> str:
    lines = ["| split | " + " | ".join(metrics := _metrics(scores)) + " |", "|---" * (len(metrics) + 1) + "|"]
    for split, values in scores.items():
        cells = (percent(values.get(metric)) for metric in metrics)
        lines.append("| " + " | ".join([split.replace("|", "\\|"), *cells]) + " |")
    return "\n".join([SCORES_HEADING, "", *lines])


def _metrics(scores: Scores) -> list[str]:
    return [metric for metric in ("gIoU", "cIoU") if any(metric in values for values in scores.values())]
