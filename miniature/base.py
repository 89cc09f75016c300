"""Build the miniature's base models, untrained or from a training run: `python -m miniature.base --help`.

Written in the layouts of the real ones, so that the same loading code runs: `DIR/llava` (llava-hf layout with a
SentencePiece tokenizer trained on the miniature's text), `DIR/clip`, and `DIR/sam_miniature.pth` in the layout of
segment-anything; another mask decoder is a directory of transformers, `DIR/sam2_miniature`. With `--backbone qwen3_vl`
LLaVA and CLIP are one directory, `DIR/qwen3_vl` (`qwen.py`).
"""

import argparse
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from groundscore.errors import UserError, run_main
from miniature.sizes import BACKBONES, SEGMENTERS, MiniatureSizes

if TYPE_CHECKING:
    from transformers import CLIPVisionConfig, LlamaConfig


def main(argv: Sequence[str]) -> None:
    """Writes the base models."""
    parser = argparse.ArgumentParser(prog="python -m miniature.base", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--dataset_dir", type=Path, metavar="DIR", help="the miniature data, for the tokenizer of an untrained base"
    )
    source.add_argument(
        "--from_run", type=Path, metavar="RUN", help="take the weights of this training run (runs/NAME)"
    )
    parser.add_argument(
        "--backbone",
        choices=BACKBONES,
        default="llava",
        help="backbone of an untrained base (llava); a run has its own",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    parser.add_argument(
        "--decoder",
        choices=SEGMENTERS,
        default="sam",
        help="mask decoder of an untrained base (sam); a run has its own",
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    arguments = parser.parse_args(argv)
    if arguments.from_run:
        extract(arguments.out, arguments.from_run)
    else:
        if not (arguments.dataset_dir / "llava_dataset").is_dir():
            raise UserError(
                f"{arguments.dataset_dir} holds no miniature data; write it with python -m miniature.data --out "
                f"{arguments.dataset_dir}"
            )
        parts = {"backbone": arguments.backbone, "decoder": arguments.decoder}
        build(arguments.out, arguments.dataset_dir, arguments.seed, **parts)
    print(f"[miniature] base models in {arguments.out}")


def training_text(dataset_dir: Path) -> Iterator[str]:
    """Every sentence of the training splits, and the templates without `[SEG]` and placeholders."""
    from dataloaders.batching.conversation import SYSTEM_TEXT
    from groundscore.annotations.restricted_pickle import restricted_unpickle
    from groundscore.pools import DIRECTORY
    from groundscore.reading import read_json

    for path in sorted((dataset_dir / "llava_dataset").glob("*.json")):
        for item in read_json(path, list):
            yield from (turn["value"].replace("<image>", "").strip() for turn in item["conversations"])
    refer = dataset_dir / "refer_seg"
    refs = [ref for path in sorted(refer.glob("*/*.p")) for ref in restricted_unpickle(path)]
    refs += [ref for path in sorted(refer.glob("*/grefs*.json")) for ref in read_json(path, list)]
    for ref in refs:
        if ref["split"] == "train":
            yield from (sentence["sent"] for sentence in ref["sentences"])
    reason = dataset_dir / "reason_seg/ReasonSeg"
    for path in sorted(reason.glob("train/*.json")):
        yield from read_json(path)["text"]
    for path in sorted(reason.glob("explanatory/train.json")):
        yield from (item["outputs"] for item in read_json(path, list))
    for path in sorted((dataset_dir / "reason_seg_plus").glob("*.json")):
        for entry in read_json(path, list):
            yield from (entry[key] for key in ("English Question", "English Answer", "output") if key in entry)
    for path in sorted((dataset_dir / "multi_reason_seg").glob("*/MUSE_train.json")):
        for entry in read_json(path, list):
            yield from entry["questions"]
    templates = [
        line.replace("[SEG]", "").replace("{class_name}", "").replace("{sent}", "").replace("{seg}", "")
        for path in sorted(DIRECTORY.glob("*.txt"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    for _ in range(20):
        yield from templates
    for _ in range(200):
        yield SYSTEM_TEXT
        yield "USER: ASSISTANT: Sure, What is in this image? Please output segmentation mask. What are they?"


def train_tokenizer(text: Iterator[str], vocabulary: int) -> bytes:
    """A SentencePiece model like LLaMA's: byte-pair encoding with byte fallback, nothing normalised."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=text,
        model_writer=model,
        vocab_size=vocabulary,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def vision_config(sizes: MiniatureSizes) -> "CLIPVisionConfig":
    """The configuration of the miniature CLIP tower."""
    from transformers import CLIPVisionConfig

    return CLIPVisionConfig(
        hidden_size=sizes.clip_width,
        intermediate_size=4 * sizes.clip_width,
        num_hidden_layers=sizes.clip_layers,
        num_attention_heads=sizes.clip_heads,
        image_size=sizes.clip_image,
        patch_size=sizes.clip_patch,
        projection_dim=sizes.clip_width,
        hidden_act="quick_gelu",
    )


def text_config(sizes: MiniatureSizes, vocabulary: int) -> "LlamaConfig":
    """The configuration of the miniature LLaMA."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=sizes.llm_width,
        intermediate_size=sizes.llm_mlp,
        num_hidden_layers=sizes.llm_layers,
        num_attention_heads=sizes.llm_heads,
        num_key_value_heads=sizes.llm_heads,
        max_position_embeddings=2048,
        initializer_range=sizes.llm_width**-0.5,  # the usual 0.02 is for widths of thousands
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )


def build(
    out: Path,
    dataset_dir: Path,
    seed: int,
    sizes: MiniatureSizes | None = None,
    *,
    backbone: str = "llava",
    decoder: str = "sam",
) -> None:
    """Write the base models with random weights; backbone, decoder: their names."""
    from miniature.decoders import untrained_decoder, write_decoder

    sizes = sizes or MiniatureSizes()
    if backbone == "llava":
        _build_llava(out, dataset_dir, seed, sizes)
    else:
        from miniature.qwen import build_qwen

        build_qwen(out, training_text(dataset_dir), seed, sizes)
    write_decoder(out, untrained_decoder(decoder, sizes))


def _build_llava(out: Path, dataset_dir: Path, seed: int, sizes: MiniatureSizes) -> None:
    import torch
    from transformers import CLIPVisionModel, LlamaForCausalLM

    from dataloaders.batching.tokenization import GroundingTokenizer

    tokenizer = GroundingTokenizer(train_tokenizer(training_text(dataset_dir), sizes.vocabulary))
    torch.manual_seed(seed)
    language = LlamaForCausalLM(text_config(sizes, len(tokenizer)))
    tower = CLIPVisionModel(vision_config(sizes))
    projector = torch.nn.Sequential(
        torch.nn.Linear(sizes.clip_width, sizes.llm_width),
        torch.nn.GELU(),
        torch.nn.Linear(sizes.llm_width, sizes.llm_width),
    )
    _write(out, tokenizer, language.model, language.lm_head, tower, projector, dtype=torch.float32)


def extract(out: Path, run: Path) -> None:
    """Write the base models that a training run has made, without what grounding added to them.

    The rows of the grounding tokens, the text projection and the policy stay behind: who starts from this base starts
    with none of them, as from a published LLaVA.
    """
    import torch

    from checkpoints.runs.restoring import load_trained
    from dataloaders.batching.tokenization import GroundingTokenizer
    from miniature.decoders import write_decoder

    model, processor, _ = load_trained(run)
    if model.config.backbone == "llava":
        tokenizer = GroundingTokenizer(processor.tokenizer.model)
        parts = (model.language_model, model.lm_head, model.vision_tower, model.mm_projector)
        _write(out, tokenizer, *parts, dtype=torch.float16)
    elif model.config.backbone == "qwen3_vl":
        from miniature.qwen import extract_qwen

        extract_qwen(out, model, processor)
    else:
        raise UserError(f"--from_run {run}: the miniature has bases of llava and qwen3_vl, not {model.config.backbone}")
    write_decoder(out, model.sam.float())


def _write(out: Path, tokenizer, language, head, tower, projector, *, dtype) -> None:
    """The directories of LLaVA and CLIP, in `dtype`."""
    import copy

    import torch
    from transformers import CLIPVisionModel, LlavaConfig, LlavaForConditionalGeneration

    language_config, tower_config = copy.deepcopy(language.config), copy.deepcopy(tower.config)
    language_config.vocab_size = len(tokenizer)
    config = LlavaConfig(
        text_config=language_config,
        vision_config=tower_config,
        image_token_index=len(tokenizer),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    llava = LlavaForConditionalGeneration(config)
    rows = len(tokenizer)
    with torch.no_grad():
        words = language.state_dict()
        words["embed_tokens.weight"] = words["embed_tokens.weight"][:rows]
        llava.model.language_model.load_state_dict(words)
        llava.lm_head.weight.copy_(head.weight[:rows])
        llava.model.vision_tower.load_state_dict(tower.state_dict())
        for ours, theirs in ((projector[0], "linear_1"), (projector[2], "linear_2")):
            getattr(llava.model.multi_modal_projector, theirs).load_state_dict(ours.state_dict())
    llava.to(dtype).save_pretrained(out / "llava")
    tokenizer.save(out / "llava")
    clip = CLIPVisionModel(copy.deepcopy(tower_config))
    clip.load_state_dict(tower.state_dict())
    clip.to(dtype).save_pretrained(out / "clip")


if __name__ == "__main__":
    run_main(main)
