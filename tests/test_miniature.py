"""The miniature's world is the same for a seed, unambiguous, in the layouts that the loaders read; its base loads."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import MODEL_MAPPING

from dataloaders.mixture import build_mixture
from groundscore.errors import UserError
from groundscore.splits import evaluation_set
from miniature import base, classes, data, decoders, encoders, report, segmenters, vision, words
from miniature.language import QUESTIONS, absent_expressions, ask, group_expressions, reasoning, referring_expressions
from miniature.scenes import random_scene
from miniature.sizes import MiniatureSizes
from miniature.vocabulary import CATEGORIES, LONG_TEMPLATES, SHORT_TEMPLATES, is_held_out

SCENES = [random_scene(seed) for seed in range(40)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "miniature"
    data.write(root, seed=3, scale=0.02)
    return root


def contents(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_a_seed_gives_the_same_files(world, tmp_path):
    data.write(tmp_path / "again", seed=3, scale=0.02)
    assert contents(world) == contents(tmp_path / "again")


def test_no_picture_is_in_two_splits(world):
    for folder in ("reason_seg/ReasonSeg", "refer_seg/images"):
        pictures = list((world / folder).rglob("*.jpg"))
        assert len({hashlib.sha256(path.read_bytes()).digest() for path in pictures}) == len(pictures)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: str(scene.seed))
def test_an_expression_means_one_object(scene):
    texts = [
        {text for texts in referring_expressions(scene, index).values() for text in texts}
        for index in range(len(scene.objects))
    ]
    for index, mine in enumerate(texts):
        for other in texts[index + 1 :]:
            assert not mine & other


def test_places_agree_with_the_pixels():
    checked = 0
    for scene in SCENES:
        for index, thing in enumerate(scene.objects):
            for text in referring_expressions(scene, index)["place"]:
                centres = {
                    other: [float(axis.mean()) for axis in np.nonzero(scene.mask(other))]
                    for other, each in enumerate(scene.objects)
                    if each.category == thing.category
                }
                words = set(text.split())
                axis = 0 if words & {"top", "bottom", "upper", "lower"} else 1
                last = bool(words & {"bottom", "lower", "right", "rightmost"})
                farthest = (max if last else min)(
                    centres, key=lambda other, axis=axis, centres=centres: centres[other][axis]
                )
                assert farthest == index, text
                checked += 1
    assert checked > 20


def test_absent_expressions_name_nothing_in_the_scene():
    rng = np.random.default_rng(0)
    for scene in SCENES:
        present = {text for index in range(len(scene.objects)) for text in referring_expressions(scene, index)["name"]}
        present |= {text for text, _ in group_expressions(scene)}
        assert not present & set(absent_expressions(scene, 3, rng))


def test_held_out_wordings_never_occur_in_training():
    rng = np.random.default_rng(0)
    held_out = {
        template.format(use=category.uses[use])
        for category in CATEGORIES
        for use in range(3)
        for templates in (SHORT_TEMPLATES, LONG_TEMPLATES)
        for index, template in enumerate(templates)
        if is_held_out(use, index)
    }
    for number, scene in enumerate(SCENES * 3):
        assert reasoning(scene, rng, is_sentence=number % 2 == 0, held_out=False).text not in held_out
        assert reasoning(scene, rng, is_sentence=True, held_out=True).text in held_out


def test_training_data_can_be_drawn(world):
    mixture = build_mixture(
        world,
        dataset="sem_seg||refer_seg||vqa||reason_seg",
        sample_rates="1,1,1,1",
        sem_seg_data="ade20k",
        refer_seg_data="refcoco||grefcoco",
        samples_per_epoch=40,
    )
    samples = [mixture[index] for index in range(40)]
    assert {sample.family for sample in samples} == {"sem_seg", "refer_seg", "vqa", "reason_seg"}
    answers = " ".join(turn.answer for sample in samples for talk in sample.conversations for turn in talk)
    assert "[SEG]" in answers
    assert "[REJ]" in answers


@pytest.mark.parametrize(
    "split", ["ReasonSeg|val", "ReasonSeg|test", "refcoco|unc|val", "refcoco|unc|testA", "grefcoco|unc|val"]
)
def test_evaluation_splits_can_be_read(world, split):
    items = evaluation_set(split, world)
    assert len(items) > 0
    item = items[0]
    assert item.masks.shape[1:] == item.image.shape[:2]
    assert len(item.masks) == len(item.expressions)


def test_an_object_is_where_its_annotation_says(world):
    item = evaluation_set("refcoco|unc|val", world)[0]
    grounds = item.image[item.masks.max(axis=0) == 0].astype(int)
    saturation = lambda pixels: (pixels.max(axis=-1) - pixels.min(axis=-1)).mean()  # noqa: E731
    for mask in item.masks:
        assert saturation(item.image[mask == 1].astype(int)) > saturation(grounds)


def test_a_complete_world_is_left_alone_and_another_is_not_touched(world, tmp_path, capsys):
    data.write(world, seed=3, scale=0.02)
    assert "complete already" in capsys.readouterr().out
    for flags in (["--scale", "nan"], ["--scale", "-1"], ["--seed", "-1"]):
        with pytest.raises(SystemExit):
            data.main(["--out", str(tmp_path / "new"), *flags])
    with pytest.raises(UserError, match="another miniature"):
        data.write(world, seed=4, scale=0.02)
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="not empty"):
        data.write(tmp_path, seed=0, scale=0.02)


def test_a_failing_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("miniature.sets.write_reason_seg", fail)
    with pytest.raises(OSError):
        data.write(tmp_path / "out", seed=0, scale=0.01)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("decoder", ["sam_hq", "sam2", "sam3_tracker"])
def test_a_mask_decoder_of_the_miniature_s_size_loads_by_its_directory(decoder, tmp_path):
    from checkpoints.decoders import read_decoder

    config = decoders.decoder_config(decoder, MiniatureSizes())
    theirs = MODEL_MAPPING[type(config)](config)
    decoders.write_decoder(tmp_path, theirs)
    name, found, tensors = read_decoder(tmp_path / f"{decoder}_miniature")
    assert name == decoder and found.prompt_encoder_config.hidden_size == 64
    assert len(tensors) == len(theirs.state_dict())


def test_the_untrained_base_loads_and_its_tokenizer_knows_every_word(world, tmp_path):
    from checkpoints import load_model

    base.build(tmp_path / "base", world, seed=0)
    model, processor, _ = load_model(
        tmp_path / "base/llava",
        system="UGround",
        vision_tower=str(tmp_path / "base/clip"),
        vision_pretrained=str(tmp_path / "base/sam_miniature.pth"),
    )
    assert model.config.system == "UGround"
    for path in (world / "reason_seg/ReasonSeg/test").glob("*.json"):
        for text in json.loads(path.read_text())["text"]:
            ids = processor.tokenizer.encode(text)
            assert processor.tokenizer.pad_token_id not in ids
            assert processor.decode(ids) == text


@pytest.mark.parametrize("encoder", ["clip", "sam", "sam_hq", "sam2", "sam3_tracker"])
def test_vision_training_improves_an_encoder_of_the_base_once(encoder, world, tmp_path, monkeypatch, capsys):
    from checkpoints import load_model

    for name, value in {"SCENES": 12, "BATCH": 4, "WARM_UP": 1, "PRINT_EVERY": 6}.items():
        monkeypatch.setattr(encoders, name, value)
    decoder = "sam" if encoder == "clip" else encoder
    base.build(tmp_path / "base", world, seed=0, decoder=decoder)
    command = [encoder, "--base", str(tmp_path / "base"), "--steps", "18"]
    vision.main(command)
    losses = [float(line.split()[4]) for line in capsys.readouterr().out.splitlines() if line.startswith(encoder)]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    trained = contents(tmp_path / "base")
    vision.main(command)
    assert contents(tmp_path / "base") == trained
    model, _, _ = load_model(
        tmp_path / "base/llava",
        system="LISA",
        vision_tower=str(tmp_path / "base/clip"),
        vision_pretrained=str(next((tmp_path / "base").glob(f"{decoder}_miniature*"))),
    )
    assert model.config.mask_decoder == decoder


def test_a_description_from_another_image_is_true_only_where_something_fits_it(monkeypatch):
    owners = torch.zeros(2, 4, 4, dtype=torch.int8)
    owners[0, 1, 1], owners[1, 2, 2] = 2, 2  # a red object in the first image, a blue one in the second
    red, blue = ((torch.tensor([[0, 0, 0], [1, 0, 0], [5, hue, 1]])) for hue in (1, 2))
    images = encoders.Images(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), [(4, 4)] * 2, owners, [red, blue])
    attributes = torch.tensor([[5, 1, -1]] * 4 + [[-1, 2, -1]] * 4)
    monkeypatch.setattr(segmenters, "ABSENT_SHARE", 1.0)
    asked, present = segmenters.elsewhere(attributes, images, np.random.default_rng(0))
    assert asked.tolist() == attributes.roll(4, 0).tolist() and not present.any()
    monkeypatch.setattr(segmenters, "ABSENT_SHARE", 0.0)
    asked, present = segmenters.elsewhere(attributes, images, np.random.default_rng(0))
    assert asked.tolist() == attributes.tolist() and present.all()


def test_patches_know_what_they_show_and_where_it_is():
    owners = torch.zeros(1, 32, 32, dtype=torch.int8)
    owners[0, 16:] = 1
    owners[0, 8:16, 16:32] = 2
    owners[0, :, 30:] = -1
    classes = [torch.tensor([[0, 0, 0], [3, 0, 0], [7, 2, 1]])]
    batch = encoders.Images(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), [(32, 30)], owners, classes)

    kinds, hues, _, columns, rows = encoders.class_shares(batch, patch=8)

    assert kinds[0, 6].nonzero().tolist() == [[7]] and kinds[0, 0, 0] == 1 and kinds[0, 15, 3] == 0.75
    assert hues[0, 7, 2] == 0.75 and columns[0, 0, 0] == rows[0, 0, 0] == 1  # no background has a square
    assert columns[0, 6].nonzero().tolist() == [[3]] and rows[0, 6].nonzero().tolist() == [[2]]
    assert [own[6].nonzero().tolist() for own in encoders.own_places(4)] == [[[2]], [[1]]]


def test_a_description_means_all_that_it_is_true_of():
    owners = torch.tensor([[0, 0, 1, 1], [2, 2, 3, 4], [2, 2, 3, 4], [-1, -1, -1, -1]], dtype=torch.int8).unsqueeze(0)
    classes = [torch.tensor([[0, 0, 0], [3, 0, 0], [7, 2, 1], [7, 2, 2], [8, 2, 1]])]
    batch = encoders.Images(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), [(3, 4)], owners, classes)
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(60):
        attributes, masks = segmenters.description_prompts(batch, rng)
        for wanted, mask in zip(attributes, masks):
            true_of = [n for n, has in enumerate(classes[0]) if ((has == wanted) | (wanted < 0)).all()]
            assert true_of and torch.equal(mask, torch.isin(owners[0], torch.tensor(true_of)))
            seen.add(tuple(true_of))
    assert {(2,), (2, 3), (2, 3, 4), (4,), (0,), (1,)} <= seen

    maps = segmenters.coarse_maps(masks, batch, 2, rng)
    assert maps.shape == masks.shape and maps.min() >= 0 and maps.max() <= 1 and not maps[:, 3].any()


def test_a_question_in_words_has_one_right_answer():
    for scene in SCENES[:20]:
        backwards = replace(scene, objects=scene.objects[::-1])
        answers = {}
        for number in range(60):
            for kind in QUESTIONS:
                for each in (scene, backwards):
                    pair = ask(kind, each, np.random.default_rng(number))
                    if pair is not None:
                        answers.setdefault(pair[0], set()).add(pair[1])
        assert all(len(each) == 1 for each in answers.values()), answers


def test_what_is_asked_in_words_is_scored_by_kind(world, tmp_path, capsys):
    base.build(tmp_path / "base", world, seed=0)
    command = f"--version {tmp_path}/base/llava --vision_tower {tmp_path}/base/clip --model_key LISA --device cpu"
    command += f" --vision_pretrained {tmp_path}/base/sam_miniature.pth --scenes 2 --output {tmp_path}/words.json"
    words.main(command.split())
    scores = json.loads((tmp_path / "words.json").read_text())
    asked = [len(pairs) for _, pairs in words.questions(2, seed=0)]
    assert scores["all"]["asked"] == sum(asked) and scores["all"]["right"] == 0  # of a model that was never trained
    assert sum(len(scores[kind]["wrong"]) for kind in QUESTIONS) == sum(asked)
    table = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert table[2:] == [*QUESTIONS, "all"]


def test_every_class_of_a_scene_is_asked_for_and_its_masks_share_the_image_out(world, tmp_path, capsys):
    for scene in SCENES[:5]:
        masks = classes.class_masks(scene)
        assert {thing.category for thing in scene.objects} | {scene.upper, scene.lower} == set(masks)
        assert (sum(mask.astype(int) for mask in masks.values()) == 1).all()
    base.build(tmp_path / "base", world, seed=0)
    command = f"--version {tmp_path}/base/llava --vision_tower {tmp_path}/base/clip --model_key LISA --device cpu"
    command += f" --vision_pretrained {tmp_path}/base/sam_miniature.pth --scenes 2 --output {tmp_path}/classes.json"
    classes.main(command.split())
    scores = json.loads((tmp_path / "classes.json").read_text())
    assert scores["all"]["asked"] == sum(one["asked"] for name, one in scores.items() if name != "all") > 4
    assert scores["all"]["gIoU"] == 0  # of a model that was never trained: it writes no target
    assert "| all" in capsys.readouterr().out


def test_the_training_text_leaves_held_out_wordings_out(world):
    training = set(base.training_text(world))
    held_out = {
        template.format(use=category.uses[use])
        for category in CATEGORIES
        for use in range(3)
        for templates in (SHORT_TEMPLATES, LONG_TEMPLATES)
        for index, template in enumerate(templates)
        if is_held_out(use, index)
    }
    assert len(training) > 100
    assert not training & held_out


def test_the_sheet_shows_scenes(tmp_path):
    from PIL import Image

    from miniature.sheet import draw_sheet

    draw_sheet(tmp_path / "sheet.png", seed=0)
    pixels = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert pixels.std() > 20


def test_the_quickstart_s_report_tells_who_was_right_that_nothing_is_there(tmp_path, capsys):
    plain, absent = {"gIoU": 0.5, "cIoU": 0.25}, {"gIoU": 0.5, "cIoU": 0.25, "N_acc": 0.75, "T_acc": 1.0}
    splits = {"refcoco|unc|val": {"generated": plain}, "grefcoco|unc|val": {"generated": absent | {"P@0.5": 0.1}}}
    for name in ("trained", "untrained"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"splits": splits, "layers": {"8": 3}}))

    files = ["--trained", tmp_path / "trained.json", "--untrained", tmp_path / "untrained.json"]
    report.main([*map(str, files), "--seconds", "train=7", "--out", str(tmp_path / "report.json")])

    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "grefcoco|unc|val generated trained 50.0 25.0 75.0 100.0" in rows
    assert "refcoco|unc|val generated trained 50.0 25.0" in rows
    assert json.loads((tmp_path / "report.json").read_text())["splits"]["grefcoco|unc|val"]["generated"] == absent
