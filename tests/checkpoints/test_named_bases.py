"""The life of a model on a base that transformers published: every system reads it, writes it and finds it again."""

import json
import shutil
from functools import partial

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

import merge_lora_weights
from checkpoints import load_model, save_model
from checkpoints.names import from_base
from checkpoints.processing import GroundingProcessor
from dataloaders.batching.bpe_tokenization import BpeTokenizer
from dataloaders.batching.collate import Collator
from dataloaders.batching.conversation import TEMPLATES, target_tokens
from groundscore.errors import UserError
from inference.session import ChatSession
from model.systems import SYSTEMS
from tests.checkpoints.trained_run import merge, write_run
from tests.tiny import picture, tiny_samples, write_answer
from tests.tiny_bases import write_bpe_tokenizer, write_qwen, write_sam
from tests.tiny_tiled import write_tiled

WRITERS = {
    "qwen2_5_vl": write_qwen,
    "qwen3_vl": partial(write_qwen, tie_word_embeddings=True),
    "llava_onevision": partial(write_tiled, tie_word_embeddings=True),
    "internvl3": write_tiled,
}
TIED = ("qwen3_vl", "llava_onevision")
PIXELLM = {"seg_token_num": 3, "image_feature_scale_num": 2}  # masks by SAM


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    directory = tmp_path_factory.mktemp("bases")
    write_sam(directory / "sam")
    for name, write in WRITERS.items():
        write(directory / name, name)
    return directory


def opened(bases, backbone, system="UGround", **more):
    overrides = PIXELLM if system == "PixelLM" else {}
    return load_model(
        bases / backbone, system=system, vision_pretrained=str(bases / "sam"), overrides=overrides, **more
    )


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("backbone", WRITERS)
def test_every_system_trains_answers_and_is_saved_on_every_backbone(backbone, system, bases, tmp_path):
    model, processor, _ = opened(bases, backbone, system)
    output = model(Collator(processor)(tiny_samples()))
    output.loss.backward()
    assert output.loss.isfinite() and model.text_hidden_fcs[0].weight.grad.abs().sum() > 0
    save_model(model, processor, tmp_path / "hf")
    again, other_processor, report = load_model(tmp_path / "hf")
    assert not report.new and not report.renamed and report.system == system
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    one, other = (
        each.eval().segment(Collator(its)(tiny_samples()), "last")
        for each, its in ((model, processor), (again, other_processor))
    )
    assert all(torch.equal(a.mask_logits, b.mask_logits) for a, b in zip(one, other, strict=True))
    targets = " ".join(target_tokens("[SEG]", other_processor.tokenizer.tokens_per_target))
    write_answer(again, other_processor.tokenizer.encode(f"It is {targets}."))
    reply = ChatSession(again, other_processor, max_new_tokens=20).ask(picture(4, 33, 47), (), "Where is the ball?")
    assert reply.text == "It is [SEG]." and reply.masks.shape == (1, 33, 47)


@pytest.mark.parametrize("backbone", WRITERS)
def test_what_was_trained_is_merged_and_its_llm_is_one_of_transformers_again(backbone, bases, tmp_path):
    model, processor, _ = opened(bases, backbone)
    run = write_run(tmp_path, model, processor)
    merged, _, _ = load_model(merge(run))
    exported = tmp_path / "transformers"
    merge_lora_weights.main(["--weight", str(run), "--save_path", str(exported), "--export", "transformers"])
    theirs = transformers.AutoModelForImageTextToText.from_pretrained(exported)
    assert type(theirs).__name__ == type(merged.backbone).model_class.replace("Model", "ForConditionalGeneration")
    ours, to_ours = merged.state_dict(), from_base(type(merged.backbone))
    layout = {to_ours(name)[0]: tensor for name, tensor in theirs.state_dict().items()}
    assert all(torch.equal(ours[name], tensor) for name, tensor in layout.items())
    base = load_model(bases / backbone, system="LISA", vision_pretrained=str(bases / "sam"))[0]
    assert not torch.equal(ours["lm_head.weight"], base.lm_head.weight)
    assert torch.equal(ours["lm_head.weight"], ours["language_model.embed_tokens.weight"]) == (backbone in TIED)
    again, _, report = load_model(exported, system="LISA", vision_pretrained=str(bases / "sam"))
    assert report.new_tokens == 0
    assert torch.equal(again.lm_head.weight, merged.lm_head.weight)
    assert AutoTokenizer.from_pretrained(exported)("Sure, [SEG].")["input_ids"] == processor.tokenizer.encode(
        "Sure, [SEG]."
    )


def test_a_qwen_of_transformers_4_as_the_hub_has_it_is_read(tmp_path):
    """The LLM's fields at the top of its configuration, tensors as `model.layers…` and `visual…`, limits as pixels."""
    write_qwen(tmp_path / "new", "qwen2_5_vl")
    write_sam(tmp_path / "sam")
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    text = {name: value for name, value in config.pop("text_config").items() if name != "model_type"}
    rope = text.pop("rope_parameters")
    text["rope_theta"] = rope["rope_theta"]
    text["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    for name in ("model_type", "rope_parameters"):
        config["vision_config"].pop(name)
    (tmp_path / "old" / "config.json").write_text(json.dumps({**config, **text}))
    tensors = load_file(tmp_path / "new" / "model.safetensors")
    renamed = {"model.language_model.": "model.", "model.visual.": "visual."}
    for new, old in renamed.items():
        tensors = {name.replace(new, old): tensor for name, tensor in tensors.items()}
    save_file(tensors, tmp_path / "old" / "model.safetensors")
    images = json.loads((tmp_path / "old" / "preprocessor_config.json").read_text())
    size = images.pop("size")
    images |= {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
    (tmp_path / "old" / "preprocessor_config.json").write_text(json.dumps(images))
    one, other = (
        load_model(tmp_path / name, system="LISA", vision_pretrained=str(tmp_path / "sam"))[0]
        for name in ("new", "old")
    )
    for part in ("text_config", "vision_config"):
        new, old = (getattr(model.config, part).to_dict() for model in (one, other))
        old["rope_parameters"].pop("type", None)  # the older name, beside rope_type
        assert {name: (value, old.get(name)) for name, value in new.items() if old.get(name) != value} == {}
    assert one.config.base_values == other.config.base_values
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_a_layout_that_the_backbone_does_not_have_is_refused(bases, tmp_path):
    model, processor, _ = opened(bases, "qwen3_vl")
    run = write_run(tmp_path, model, processor)
    with pytest.raises(UserError, match="the reference implementation has no qwen3_vl"):
        merge(run, "--export", "reference")


def test_pixellm_without_sam_is_refused_by_name(bases):
    fields = {**PIXELLM, "vision_tower_for_mask": True}
    with pytest.raises(UserError, match="the grids of its images differ.*without --vision_tower_for_mask"):
        load_model(bases / "qwen3_vl", system="PixelLM", overrides=fields)


# --- text ------------------------------------------------------------------------------------------------------------


def test_targets_are_single_tokens_and_text_comes_back(tmp_path):
    write_bpe_tokenizer(tmp_path)
    tokenizer = BpeTokenizer.from_directory(tmp_path)
    before = len(tokenizer)
    assert tokenizer.add_grounding_tokens() == ["[SEG]", "[REJ]"] and len(tokenizer) == before + 2
    for text in ("It is [SEG] and [SEG].", "[SEG], or [REJ]", "no target, “ça” 火 😀\n\nat all"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert sum(index in (*tokenizer.seg_token_ids, *tokenizer.rej_token_ids) for index in ids) == text.count("[")
    tokenizer.save(tmp_path / "saved")
    again = BpeTokenizer.from_directory(tmp_path / "saved")
    assert again.encode("It is [SEG].") == tokenizer.encode("It is [SEG].") and again.seg_token_ids == (before,)
    assert AutoTokenizer.from_pretrained(tmp_path / "saved")("It is [SEG].")["input_ids"] == again.encode(
        "It is [SEG]."
    )


@pytest.mark.parametrize("backbone", WRITERS)
def test_the_prompt_is_the_one_that_the_chat_template_of_the_base_writes(backbone, bases):
    _, processor, _ = opened(bases, backbone)
    has_system = backbone in ("qwen2_5_vl", "llava_onevision")
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n" if has_system else ""
    image = {"llava_onevision": "<|image_pad|>\n", "internvl3": "<img><|image_pad|></img>\n"}
    expected = (
        f"{system}<|im_start|>user\n{image.get(backbone, '<|vision_start|><|image_pad|><|vision_end|>')}"
        "What is the tree?<|im_end|>\n"
        "<|im_start|>assistant\nIt is [SEG].<|im_end|>\n<|im_start|>user\nAnd the green one?<|im_end|>\n"
        "<|im_start|>assistant\nThey are near.<|im_end|>"
    )
    batch = Collator(processor)([tiny_samples()[1]])
    pad = processor.tokenizer.added_tokens["<|image_pad|>"]
    ids = batch.input_ids[0].tolist()
    first = ids.index(-200)
    tokens = batch.backbone_images.geometries[0].tokens
    assert [*ids[:first], pad, *ids[first + tokens :]] == processor.tokenizer.encode(expected)
    learned = "It is [SEG].<|im_end|>They are near.<|im_end|>"
    assert batch.label_ids.tolist() == processor.tokenizer.encode(learned)
    assert TEMPLATES[processor.conv_type].end == "<|im_end|>"
    assert processor.tokenizer.eos_token_id == processor.tokenizer.added_tokens["<|im_end|>"]


# --- bad input -------------------------------------------------------------------------------------------------------


def changed(directory, file, **values):
    path = directory / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        (
            "config.json",
            {"model_type": "qwen2_vl"},
            "model of type 'qwen2_vl'; expected a base whose type is.*qwen3_vl",
        ),
        ("preprocessor_config.json", {"patch_size": 14}, "patch_size is 14, the image encoder's patch_size 4"),
        ("preprocessor_config.json", {"image_mean": "half"}, "image_mean should be three numbers"),
        ("tokenizer_config.json", {"eos_token": "</s>"}, "names '</s>' as eos_token"),
        ("config.json", {"auto_map": {"AutoModel": "evil.py"}}, "names code of its own"),
    ],
)
def test_a_base_that_does_not_fit_is_named(file, values, message, tmp_path):
    write_qwen(tmp_path, "qwen3_vl")
    changed(tmp_path, file, **values)
    with pytest.raises(UserError, match=message):
        load_model(tmp_path, system="LISA", vision_pretrained=str(tmp_path))


def test_a_processor_of_ours_is_read_with_its_backbone(bases, tmp_path):
    model, processor, _ = opened(bases, "qwen3_vl", "LISA")
    save_model(model, processor, tmp_path / "hf")
    again = GroundingProcessor.from_pretrained(tmp_path / "hf")
    assert again.backbone_images == processor.backbone_images and again.conv_type == "qwen3_vl"
