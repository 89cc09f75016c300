"""LLaVA-OneVision, InternVL3 and LLaVA 1.6 in tiles against transformers' own classes, with all systems."""

import copy
import json
import shutil
from dataclasses import replace

import pytest
import torch

from checkpoints import load_model, save_model
from dataloaders.batching.collate import Collator
from dataloaders.batching.tokenization import IMAGE_TOKEN_INDEX
from dataloaders.sample import Turn
from groundscore.errors import UserError
from model.backbones import BACKBONES, agreement
from model.images import CLIP_MEAN, CLIP_STD, standardize
from model.systems import SYSTEMS
from tests.tiny import text_only_sample, tiny_samples, write_answer
from tests.tiny_bases import write_sam
from tests.tiny_tiled import SIDE, write_tiled

KINDS = ("llava_onevision", "internvl3", "llava_next")
# Changes of the tiny configurations: the LLM, its heads, tied embeddings, patches, states of the encoder, tilings.
CONFIGURATIONS = [
    ("llava_onevision", {}),
    ("llava_onevision", {"text_config": {"num_attention_heads": 8, "num_key_value_heads": 1, "num_hidden_layers": 2},
                         "vision_config": {"patch_size": 6}, "vision_feature_layer": [-1, 1],
                         "vision_aspect_ratio": "anyres_max_1"}),
    ("llava_onevision", {"text_config": {"model_type": "llama", "tie_word_embeddings": True},
                         "vision_config": {"image_size": 40, "patch_size": 5}, "vision_feature_layer": -2,
                         "vision_aspect_ratio": "anyres_max_9", "projector_hidden_act": "silu"}),
    ("internvl3", {}),
    ("internvl3", {"tie_word_embeddings": True, "text_config": {"num_key_value_heads": 4},
                   "vision_config": {"norm_type": "rms_norm", "use_qk_norm": True, "attention_bias": True},
                   "downsample_ratio": 0.25}),
    ("internvl3", {"text_config": {"model_type": "qwen3", "head_dim": 12}, "vision_feature_layer": -2,
                   "vision_config": {"image_size": 20, "patch_size": 4, "use_mean_pooling": False},
                   "downsample_ratio": 1.0}),
    ("internvl3", {"vision_config": {"use_mean_pooling": False, "use_absolute_position_embeddings": False}}),
]  # fmt: skip


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    directory = tmp_path_factory.mktemp("bases")
    write_sam(directory / "sam")
    for kind in KINDS:
        write_tiled(directory / kind, kind)
    return directory


def opened(bases, kind, system="UGround", overrides=None, **more):
    tiles = {"anyres": True} if kind == "llava_next" else {}
    sam = str(bases / "sam")
    return load_model(bases / kind, system=system, vision_pretrained=sam, overrides=tiles | (overrides or {}), **more)


# --- exactness -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "changes"), CONFIGURATIONS)
def test_states_logits_and_tokens_are_those_of_transformers(kind, changes, tmp_path):
    base = write_tiled(tmp_path, kind, seed=1, **copy.deepcopy(changes))
    _, images = agreement.read_base(str(tmp_path), None)
    base.generation_config.update(
        do_sample=False, max_new_tokens=agreement.NEW_TOKENS, pad_token_id=0, eos_token_id=None
    )
    result = agreement.compare(base, agreement.build_ours(base, images), seed=2)
    assert max(difference.largest for difference in result.differences) < 1e-5, "\n".join(map(str, result.differences))
    assert result.equal_tokens == result.tokens == 6 * agreement.NEW_TOKENS


@pytest.mark.parametrize("canvases", [None, [[SIDE, SIDE], [2 * SIDE, 3 * SIDE]]])
def test_llava_1_6_in_tiles_computes_what_transformers_computes(canvases, bases, tmp_path):
    theirs = write_tiled(tmp_path, "llava_next", **({} if canvases is None else {"image_grid_pinpoints": canvases}))
    ours, processor, _ = load_model(
        tmp_path, system="LISA", vision_pretrained=str(bases / "sam"), overrides={"anyres": True}
    )
    samples = [*tiny_samples(), text_only_sample()]
    batch = Collator(processor, packed=False)(samples)
    states = ours.read(batch, ours.encode_images(batch))
    kept, words = batch.branches >= 0, ours.get_input_embeddings().weight.data  # with the tokens that we add
    theirs.get_input_embeddings().weight.data[: len(words)] = words
    for row, image in enumerate(batch.image_index.tolist()):
        ids = batch.input_ids[row][kept[row]]
        ids = ids.masked_fill(ids == IMAGE_TOKEN_INDEX, theirs.config.image_token_index)
        pixels = processor.backbone_images(samples[image].image)[0]
        expected = theirs(
            input_ids=ids.unsqueeze(0),
            pixel_values=standardize(pixels.float() / 255, CLIP_MEAN, CLIP_STD).unsqueeze(0),
            image_sizes=torch.tensor([samples[image].image.shape[:2]]),
            output_hidden_states=True,
        )
        for mine, their in zip(states, expected.hidden_states, strict=True):
            torch.testing.assert_close(mine[row][kept[row]], their[0], atol=1e-5, rtol=1e-5)


def test_llava_1_6_sees_one_square_unless_tiles_are_asked_for(bases):
    model, processor, report = load_model(bases / "llava_next", system="LISA", vision_pretrained=str(bases / "sam"))
    assert processor.backbone_images(tiny_samples()[0].image)[0].shape == (3, SIDE, SIDE)
    assert not [name for name in model.state_dict() if "newline" in name]
    assert not report.dropped


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_of_a_base_is_read_and_saved_again(kind, bases, tmp_path):
    model, processor, report = opened(bases, kind)
    assert {name.split(".")[0] for name in report.new} == {"policy", "text_hidden_fcs"} and not report.dropped
    save_model(model, processor, tmp_path / "merged")
    assert f"tiles of it, {SIDE} pixels each" in (tmp_path / "merged" / "README.md").read_text()
    again, _, _ = load_model(tmp_path / "merged")
    assert again.config.base_values == model.config.base_values
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_a_base_that_does_not_say_whether_it_is_tied_is_where_it_has_no_head(bases, tmp_path):
    theirs = write_tiled(tmp_path, "internvl3", tie_word_embeddings=True)
    values = json.loads((tmp_path / "config.json").read_text())
    del values["tie_word_embeddings"], values["text_config"]["tie_word_embeddings"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    model, _, _ = load_model(tmp_path, system="LISA", vision_pretrained=str(bases / "sam"))
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert torch.equal(model.lm_head.weight[:400], theirs.lm_head.weight[:400])


# --- the systems -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("kind", KINDS)
def test_packed_rows_equal_plain_rows_and_a_batch_its_images(system, kind, bases):
    fresh, processor, _ = opened(bases, kind, system)
    samples, results = [*tiny_samples(), text_only_sample()], []
    for packed in (True, False):
        torch.manual_seed(0)
        model = copy.deepcopy(fresh)  # a pass moves the policy's running reward
        output = model(Collator(processor, packed=packed)(samples), layer_choice=torch.tensor([0, 3, 1, 2]))
        output.loss.backward()
        results.append((output.loss, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    (loss, gradients), (plain_loss, plain) = results
    torch.testing.assert_close(loss, plain_loss, atol=1e-5, rtol=1e-5)
    assert gradients.keys() == plain.keys()
    for name, gradient in gradients.items():
        assert (gradient - plain[name]).abs().max() <= 1e-5 + 1e-3 * gradient.abs().max(), name
    layer = 2 if fresh.system.uses_policy else None
    together = fresh.eval().segment(Collator(processor)(samples), layer)
    (alone,) = fresh.segment(Collator(processor)(samples[1:2]), layer)
    assert together[1].mask_logits.shape[1:] == samples[1].image.shape[:2]
    torch.testing.assert_close(together[1].mask_logits, alone.mask_logits, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_all_shapes_of_images_are_one_call_and_give_what_each_alone_gives(kind, bases):
    model, processor, _ = opened(bases, kind)
    backbone, groups = model.backbone, Collator(processor)([*tiny_samples(), text_only_sample()]).backbone_images.groups
    alone = [backbone.project(backbone.encode(group), group)[0] for group in groups]
    calls = []
    hooks = [
        module.register_forward_hook(lambda module, *_: calls.append(module))
        for part in type(backbone).parts["encoder"] + type(backbone).parts["projector"]
        if hasattr(backbone, part)
        for module in getattr(backbone, part).modules()
    ]
    together = backbone.project_groups(backbone.encode_groups(groups), groups)
    assert len(groups) == 3 and len(calls) == len(set(calls)) > 0
    for hook in hooks:
        hook.remove()
    for (one, visible), other in zip(together, alone, strict=True):
        assert visible is None
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)  # several threads sum in another order


@pytest.mark.parametrize("kind", KINDS)
def test_a_target_that_is_written_gets_a_mask_and_a_map(kind, bases):
    model, processor, _ = opened(bases, kind)
    write_answer(model, [5, model.config.seg_token_ids[0]])
    questions = [
        replace(each, conversations=[(Turn(turns[0].question, None),) for turns in each.conversations])
        for each in tiny_samples()
    ]
    for packed in (True, False):
        for answer in model.eval().generate(Collator(processor, packed=packed)(questions), max_new_tokens=4, layer=1):
            assert len(answer.mask_logits) == len(answer.similarity_maps) == 1
            assert answer.mask_logits.shape == answer.similarity_maps.shape


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointed_layers_give_the_same_gradients(kind, bases):
    model, processor, _ = opened(bases, kind, "LISA")
    batch, gradients = Collator(processor)(tiny_samples()), []
    for checkpointed in (False, True):
        if checkpointed:
            model.train()
            model.backbone.checkpoint_gradients()
        model.zero_grad()
        model(batch).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("internvl3", {"max_pixels": 100}, "--max_pixels 100: a single tile has 784 pixels"),
        ("llava_onevision", {"max_pixels": 100}, "--max_pixels 100: a single tile has 784 pixels"),
        ("internvl3", {"min_pixels": 100}, "internvl3 has no such setting, only qwen"),
        ("llava_onevision", {"pad_train_clip_images": True}, "only llava; leave the flag out"),
        ("internvl3", {"conv_type": "vicuna_v1"}, "internvl3 understands internvl3"),
        ("internvl3", {"map_geometry": "reference"}, "--map_geometry reference: an image in tiles"),
        ("llava_next", {"pad_train_clip_images": True}, "--anyres: .* excludes --pad_train_clip_images"),
        ("internvl3", {"anyres": True}, "--anyres: internvl3 has no such setting, only llava"),
    ],
)
def test_settings_that_do_not_fit_are_refused(kind, settings, message, bases):
    with pytest.raises(UserError, match=message):
        opened(bases, kind, overrides=settings)


@pytest.mark.parametrize("kind", KINDS)
def test_pixellms_own_decoder_is_refused(kind, bases):
    with pytest.raises(UserError, match="decode by SAM"):
        opened(bases, kind, "PixelLM", overrides={"vision_tower_for_mask": True, "image_feature_scale_num": 2})


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("internvl3", {"size": {"height": 56, "width": 56}}, "is that of another model, copy the right one"),
        ("internvl3", {"resample": 2}, "resample should be one of 3"),
        ("internvl3", {"image_mean": [0.5]}, "image_mean should be three numbers"),
        ("llava_onevision", {"image_grid_pinpoints": [[28, 30]]}, "should be two multiples of 28"),
        ("llava_onevision", {"size": {"height": 56, "width": 56}}, "is that of another model"),
    ],
)
def test_a_processor_that_does_not_fit_is_refused(kind, values, message, bases, tmp_path):
    shutil.copytree(bases / kind, tmp_path / kind)
    file = tmp_path / kind / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    with pytest.raises(UserError, match=message):
        load_model(tmp_path / kind, system="LISA", vision_pretrained=str(bases / "sam"))


@pytest.mark.parametrize("kind", KINDS[:2])
def test_a_class_that_transformers_does_not_have_is_named(kind, bases, monkeypatch):
    monkeypatch.setattr(BACKBONES[kind], "model_class", "Llava9Model")
    with pytest.raises(UserError, match="has no Llava9Model.*pip install --upgrade transformers"):
        opened(bases, kind)


def test_fewer_pixels_mean_fewer_tiles(bases):
    for kind, tiles in (("internvl3", 3), ("llava_onevision", 3)):
        _, processor, _ = opened(bases, kind, overrides={"max_pixels": 2 * SIDE**2})
        pixels, _ = processor.backbone_images(tiny_samples()[0].image)
        assert len(pixels) <= tiles
