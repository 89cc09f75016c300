"""Does a backbone compute what transformers itself computes? `check.py` is the program.

The model of a directory is built twice, as a class of transformers and as the backbone of this program, with the
weights that lie there, or random ones where there is only a `config.json`. Both read random token ids about images of
several shapes; hidden states, logits and generated tokens are compared, and packed rows with plain ones.

Legend: R rows, T tokens of a row, L layers, K labelled tokens, V vocabulary, D width.
"""

import argparse
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig, PreTrainedConfig, PreTrainedModel

from dataloaders.batching.batch import PADDING_BRANCH, Batch
from dataloaders.batching.collate import Collator, Processor
from dataloaders.batching.tokenization import IMAGE_TOKEN_INDEX
from dataloaders.sample import Sample, Turn
from groundscore.errors import UserError, shown
from groundscore.reading import read_json
from model.backbones.base import depth_of
from model.backbones.members import BACKBONES, backbone_named, backbone_of_base
from model.config import GroundingConfig
from model.grounding import GroundingModel

# Largest difference that another order of sums explains, relative to the largest value; bf16 has 8 bits.
TOLERANCE = {"fp32": 1e-4, "bf16": 1e-1}
SHAPES = ((60, 90), (120, 30), (37, 53))  # height and width of the images, in pixels
NEW_TOKENS = 32
# A mask decoder for what is not compared here.
_SAM = {
    "vision_config": {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "global_attn_indexes": [],
        "window_size": 0,
        "mlp_dim": 8,
        "image_size": 64,
        "output_channels": 16,
        "num_pos_feats": 8,
    },
    "prompt_encoder_config": {"hidden_size": 16, "image_size": 64, "image_embedding_size": 4},
    "mask_decoder_config": {"hidden_size": 16, "mlp_dim": 16, "iou_head_hidden_dim": 16, "num_attention_heads": 2},
}


# --- the two models --------------------------------------------------------------------------------------------------


def read_base(version: str, layers: int | None) -> tuple[PreTrainedConfig, Mapping[str, Any]]:
    """The configuration of a base, with at most so many layers, and the settings of its image processor."""
    path = Path(version)
    directory = path.parent if path.is_file() else path
    file = path if path.is_file() else path / "config.json"
    values = read_json(file, missing="--version is the directory of a base of transformers, or a config.json")
    kind = values.get("model_type") if isinstance(values, dict) else None
    name = backbone_of_base(kind)
    if name is None or not BACKBONES[name].names:
        known = [kind for backbone in BACKBONES.values() if backbone.names for kind in backbone.base_types]
        raise UserError(f"{file}: model_type {shown(kind)}; this check knows {', '.join(known)}")
    try:
        config = AutoConfig.from_pretrained(file)
    except Exception as error:  # transformers checks configurations in many ways
        raise UserError(f"{file}: transformers cannot read it ({' '.join(str(error).split())[:200]})") from error
    settings = directory / "preprocessor_config.json"
    images = read_json(settings, missing="") if settings.is_file() else {}
    if layers is not None:
        _reduce(config.text_config, layers)
        _reduce(config.vision_config, layers)
    return config, images


def _reduce(part: PreTrainedConfig, layers: int) -> None:
    """Leave at most so many layers, and of lists that name layers those that are left."""
    kept = min(layers, depth_of(part))
    setattr(part, "depth" if hasattr(part, "depth") else "num_hidden_layers", kept)
    for name in ("deepstack_visual_indexes", "fullatt_block_indexes"):
        if hasattr(part, name):
            setattr(part, name, [index for index in getattr(part, name) if index < kept])
    if getattr(part, "layer_types", None):
        part.layer_types = part.layer_types[:kept]


def build_base(config: PreTrainedConfig, version: str, *, seed: int, precision: str) -> tuple[PreTrainedModel, bool]:
    """The model of transformers, and whether its weights are those of the directory."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    path = Path(version)
    has_weights = path.is_dir() and any([*path.glob("*.safetensors"), *path.glob("*.bin")])
    if has_weights:
        model = AutoModelForImageTextToText.from_pretrained(path, config=config, dtype=dtype)
    else:
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
        _spread(model, seed)
    model.generation_config = GenerationConfig(do_sample=False, pad_token_id=0, max_new_tokens=NEW_TOKENS)
    return model.eval(), has_weights


@torch.no_grad()
def _spread(model: nn.Module, seed: int) -> None:
    """Random weights under which tokens differ: as initialised, all logits of a deep model are nearly equal."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.copy_(noise / parameter[0].numel() ** 0.5 if parameter.dim() >= 2 else parameter + 0.1 * noise)


def build_ours(base: PreTrainedModel, images: Mapping[str, Any]) -> GroundingModel:
    """A model of this program whose backbone has the base's weights, with a small mask decoder."""
    config = base.config
    name = backbone_of_base(config.model_type)
    backbone = backbone_named(name)
    text = config.text_config.to_dict() | {
        "tie_word_embeddings": config.tie_word_embeddings,
        "eos_token_id": -1,  # is never written, so that all answers have the same length
    }
    ours = GroundingConfig(
        text_config=text,
        vision_config=config.vision_config.to_dict(),
        sam_config=_SAM,
        system="LISA",
        backbone=name,
        base_values=backbone.read_base_values(config.to_dict(), images),
        conv_type=backbone.conv_types[0],
        out_dim=16,
        seg_token_ids=[-1],  # neither are these: nothing is segmented
        rej_token_ids=[-1],
    )
    backbone.check(ours)
    before = torch.get_default_dtype()
    torch.set_default_dtype(base.dtype)
    try:
        model = GroundingModel(ours)
    finally:
        torch.set_default_dtype(before)
    model.backbone.take_base(base)
    return model.eval()


# --- what they read --------------------------------------------------------------------------------------------------


class HashedWords:
    """A tokenizer that gives every word an id by its hash: text for a model whose own tokenizer is not there.

    vocabulary: how many ids there are; kept_free: ids that are never given.
    """

    tokens_per_target = 1
    im_start_id = None
    pad_token_id = 0

    def __init__(self, vocabulary: int, kept_free: Sequence[int]):
        self.seg_token_ids, self.rej_token_ids = (vocabulary - 1,), (vocabulary - 2,)
        free = {*kept_free, *self.seg_token_ids, *self.rej_token_ids, self.pad_token_id}
        self.ids = [index for index in range(min(vocabulary, 10**5)) if index not in free]

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        """Ids of the words of `text`."""
        return [self.ids[zlib.crc32(word.encode()) % len(self.ids)] for word in re.findall(r"\w+|[^\w\s]", text)]

    def encode_turn(self, asked: str, answered: str) -> tuple[list[int], int]:
        """Ids of a question and its answer, and how many of them are the question's."""
        question = self.encode(asked)
        return question + self.encode(answered), len(question)


def samples(seed: int, *, answered: bool) -> list[Sample]:
    """Images of several shapes, two conversations about each."""
    generator = np.random.default_rng(seed)
    found = []
    for height, width in SHAPES:
        cells = generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        image = cells[np.arange(height) * 6 // height][:, np.arange(width) * 6 // width]
        found.append(
            Sample(
                image_path=Path(f"{height} x {width}"),
                image=np.ascontiguousarray(image),
                conversations=[
                    (Turn("What is left of the small red ball?", "It is the green house." if answered else None),),
                    (Turn("Where is it?", "Near the boat, and the tree behind it." if answered else None),),
                ],
                masks=np.zeros((0, height, width), dtype=np.uint8),
                ignore=None,
                family="check",
                dataset="random",
            )
        )
    return found


# --- the comparison --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """The largest difference of two tensors, and how large it is relative to the largest value."""

    what: str
    largest: float
    relative: float

    @classmethod
    def of(cls, what: str, pairs: Sequence[tuple[Tensor, Tensor]]) -> "Difference":
        """Of several pairs of tensors of equal shapes, the first of each the one that is right."""
        largest = relative = 0.0
        for right, other in pairs:
            assert right.shape == other.shape
            difference = (right.float() - other.float()).abs().max().item()
            largest = max(largest, difference)
            relative = max(relative, difference / max(right.float().abs().max().item(), 1e-12))
        return cls(what, largest, relative)

    def __str__(self) -> str:
        return f"{self.what:<42} largest difference {self.largest:.1e}, relative {self.relative:.1e}"


@dataclass
class Comparison:
    """differences: of hidden states, logits and layouts; equal_tokens, tokens: of the generated ones."""

    differences: list[Difference]
    equal_tokens: int
    tokens: int
    precision: str

    @property
    def agrees(self) -> bool:
        """Whether rounding explains all differences; in bf16 it may also change a token, and all that follow."""
        small = all(each.relative <= TOLERANCE[self.precision] for each in self.differences)
        return small and (self.precision != "fp32" or self.equal_tokens == self.tokens)


@torch.no_grad()
def compare(base: PreTrainedModel, ours: GroundingModel, *, seed: int = 0, precision: str = "fp32") -> Comparison:
    """Read and write the same with both models."""
    config = ours.config
    special = [value for name, value in base.config.to_dict().items() if name.endswith(("_token_id", "_token_index"))]
    tokenizer = HashedWords(config.text_config.vocab_size, special)
    processor = Processor(tokenizer, type(ours.backbone).preparation(config), None, config.conv_type)
    collate = {
        "plain": Collator(processor, packed=False, max_length=None),
        "left": Collator(processor, packed=False, padding_side="left", max_length=None),
        "packed": Collator(processor, max_length=None),
    }
    read = {name: _read(ours, make(samples(seed, answered=True))) for name, make in collate.items()}
    batch, states = read["plain"].batch, read["plain"].states
    by_base = [_read_by_base(base, ours, batch, row) for row in range(len(batch.input_ids))]
    seen = batch.branches != PADDING_BRANCH
    pairs = [
        [(of_row[layer], of_layer[row][seen[row]]) for row, of_row in enumerate(by_base)]
        for layer, of_layer in enumerate(states)
    ]
    worst = max(range(len(pairs)), key=lambda layer: Difference.of("", pairs[layer]).relative)
    logits = [
        (base.lm_head(of_row[-1]), ours.lm_head(states[-1][row][seen[row]])) for row, of_row in enumerate(by_base)
    ]
    differences = [
        Difference.of(f"hidden states, most at {worst} of 0..{len(pairs) - 1}", pairs[worst]),
        Difference.of("logits", logits),
        Difference.of("packed rows, logits of the answers", [(read["plain"].labelled, read["packed"].labelled)]),
        Difference.of("left padding, logits of the answers", [(read["plain"].labelled, read["left"].labelled)]),
    ]
    equal = total = 0
    questions = collate["plain"](samples(seed, answered=False))
    written = ours.generate(collate["packed"](samples(seed, answered=False)), max_new_tokens=NEW_TOKENS)
    for row, answer in enumerate(written):
        expected = _write_by_base(base, ours, questions, row)
        equal += sum(one == other for one, other in zip(expected, answer.token_ids, strict=True))
        total += len(expected)
    return Comparison(differences, equal, total, precision)


@dataclass
class _ReadRows:
    """A batch, the L+1 states [R, T, D] of its rows and the logits [K, V] that predict the answers."""

    batch: Batch
    states: tuple[Tensor, ...]
    labelled: Tensor


def _read(model: GroundingModel, batch: Batch) -> _ReadRows:
    states = model.read(batch, model.encode_images(batch))
    return _ReadRows(batch, states, model.lm_head(states[-1].flatten(0, 1)[batch.label_positions]))


def _inputs_of_base(base: PreTrainedModel, ours: GroundingModel, batch: Batch, row: int) -> dict[str, Tensor]:
    """What the model of transformers takes for one row of plain conversations, without its padding."""
    ids = batch.input_ids[row][batch.branches[row] != PADDING_BRANCH]
    is_image = ids == IMAGE_TOKEN_INDEX
    ids = torch.where(is_image, torch.tensor(base.config.image_token_id), ids)
    image = int(batch.image_index[row])
    group = next(group for group in batch.backbone_images.groups if image in group.images)
    return {
        "input_ids": ids.unsqueeze(0),
        "attention_mask": torch.ones_like(ids).unsqueeze(0),
        **ours.backbone.inputs_of_base(group.only([group.images.index(image)]), is_image.unsqueeze(0)),
    }


def _read_by_base(base: PreTrainedModel, ours: GroundingModel, batch: Batch, row: int) -> list[Tensor]:
    """The L+1 hidden states [T, D] as transformers computes them: what each layer reads, and the last, normed."""
    llm = base.model.language_model
    with _listening(llm.layers, llm.norm) as heard:
        base(**_inputs_of_base(base, ours, batch, row), use_cache=False)
    return [states[0] for states in heard]


@contextmanager
def _listening(layers: Sequence[nn.Module], norm: nn.Module) -> Iterator[list[Tensor]]:
    """Inside the `with` block the list takes what each layer reads and what the norm gives."""
    heard: list[Tensor] = []

    def before(_: nn.Module, arguments: tuple, named: dict[str, Any]) -> None:
        heard.append(arguments[0] if arguments else named["hidden_states"])

    hooks: list[Any] = [layer.register_forward_pre_hook(before, with_kwargs=True) for layer in layers]
    hooks.append(norm.register_forward_hook(lambda _, __, output: heard.append(output)))
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def _write_by_base(base: PreTrainedModel, ours: GroundingModel, batch: Batch, row: int) -> list[int]:
    """The tokens that transformers writes greedily after a row."""
    inputs = _inputs_of_base(base, ours, batch, row)
    return base.generate(**inputs)[0, inputs["input_ids"].shape[1] :].tolist()


# --- the report ------------------------------------------------------------------------------------------------------


def report(flags: argparse.Namespace) -> int:
    """Compares the base that the flags of `check.py` name, and prints what was found; 1 where the two differ."""
    config, images = read_base(flags.version, flags.layers)
    base, has_weights = build_base(config, flags.version, seed=flags.seed, precision=flags.precision)
    ours = build_ours(base, images)
    layers = config.text_config.num_hidden_layers
    weights = "its weights" if has_weights else f"random weights of seed {flags.seed}"
    print(
        f"{ours.config.backbone}, {flags.version}: {weights}, {layers} layers, {flags.precision}, "
        f"transformers {transformers.__version__}"
    )
    result = compare(base, ours, seed=flags.seed, precision=flags.precision)
    for difference in result.differences:
        print(difference)
    print(f"{'generation':<42} {result.equal_tokens} of {result.tokens} tokens equal")
    if result.agrees:
        print("verdict: the backbone computes what transformers computes")
        return 0
    print(
        f"verdict: it does NOT compute what this version of transformers computes (allowed: relative "
        f"{TOLERANCE[flags.precision]:g}); report it, and use the version of requirements.txt until it is mended"
    )
    return 1
