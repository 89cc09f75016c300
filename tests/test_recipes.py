"""The recipes in `scripts/recipes`: their numbers are the published ones, and the documents say the same of them."""

from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.published_recipes import OTHER_RECIPES, UGROUND_RECIPES
from tests.recipe_names import BACKBONES, FOLDERS, LARGE, OF_BACKBONES, OTHERS, UGROUND, recipe_of, settings
from utils.recipes import RECIPES, recipe_names

ROOT = Path(__file__).resolve().parents[1]


@cache
def recipe_file(recipe: str) -> dict:
    return yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text(encoding="utf-8"))


def test_every_recipe_has_scripts_and_a_sentence():
    used = {recipe_of(folder, name) for folder in FOLDERS for name in (*UGROUND, *OTHERS)}
    assert used | {*OF_BACKBONES} == set(recipe_names())
    for recipe in recipe_names():
        assert recipe_file(recipe)["about"].endswith("."), recipe


def test_a_recipe_shows_its_numbers_whole():
    shown = {"lr", "epochs", "steps_per_epoch", "batch_size", "grad_accumulation_steps", "warmup_num_steps", "lora_r",
             "dice_loss_weight", "dataset", "sample_rates", "val_dataset", "version", "vision_tower", "dataset_dir",
             "model_key", "exp_name", "device"}  # fmt: skip
    for recipe in recipe_names():
        of_others = {"vision_tower"} if recipe.partition("/")[0] in BACKBONES else set()
        assert shown - of_others <= settings(recipe).given, recipe


@pytest.mark.parametrize("recipe", [f"{folder}/{name}" for folder in LARGE for name in UGROUND])
def test_the_numbers_of_the_published_recipes(recipe):
    config = settings(recipe)
    assert (config.mode, config.eval_legacy) == (3, None)  # the policy is on, in training and after it
    assert config.baseline_type == recipe.rpartition("_")[2]
    assert "test" not in config.val_dataset  # never selected on a test split
    assert (config.batch_size, config.grad_accumulation_steps, config.warmup_num_steps) == (2, 10, 100)
    assert (config.ce_loss_weight, config.bce_loss_weight, config.dice_loss_weight) == (1, 2, 4)
    assert config.num_classes_per_question == 3 and config.use_expand_question_list and config.pad_train_clip_images
    size = recipe.partition("_")[0]
    assert config.lora_r == {"7b": 8, "13b": 64}[size]
    base = f"llava-v1.5-{size}" if "1.5" in recipe else f"llava-v1.6-vicuna-{size}"
    assert config.version == f"dataset/{base}"
    if "1.6" in recipe:
        assert config.lr == 1e-4


# Where our recipes differ from the published ones on purpose; docs/recipes.md gives the reasons, by these flags.
EVERYWHERE = {"resume_from_best", "separate_mm_projector"}
POLICY_ON = {"mode", "eval_legacy"}
COPIES = {"data", "val_dataset", "steps_per_epoch", "eval_interval", "epochs", "gpus", "refer_seg_data"}
COPIES |= {"resize_vision_tower", "resize_vision_tower_size"}  # 1.6 in the refer folders: copies of another recipe


def documented_differences(folder: str, name: str) -> set[str]:
    allowed = set(EVERYWHERE)
    if name in UGROUND:
        allowed |= POLICY_ON
        if "refer_seg" in folder and "1.6" in name:
            allowed |= COPIES
        if folder.endswith(("_test", "grefer_seg")):
            allowed.add("val_dataset")
    else:
        allowed |= {"lora_r"} if folder.startswith("13b") else set()
        allowed |= {"val_dataset"} if name == "lisa" else set()
        allowed -= {"separate_mm_projector"} if name == "pixellm" else set()
    return allowed


@pytest.mark.parametrize("name", [*UGROUND, *OTHERS])
@pytest.mark.parametrize("folder", LARGE)
def test_every_number_is_the_published_one_or_documented(folder, name):
    size = folder.partition("_")[0]
    if name in UGROUND:
        published = UGROUND_RECIPES[folder][name.removeprefix("uground_")] | {"lora_r": {"7b": 8, "13b": 64}[size]}
        published |= {"baseline_type": name.rpartition("_")[2], "seg_token_num": 1, "image_feature_scale_num": 1}
    else:
        published = OTHER_RECIPES[name]
    recipe = recipe_of(folder, name)
    config = settings(recipe)
    found = {flag: getattr(config, flag) for flag in published if flag not in ("data", "gpus")}
    found |= {"data": {family: rate for family, rate in zip(config.families, config.rates, strict=True) if rate}}
    found |= {"gpus": recipe_file(recipe).get("gpus", 1)}
    defaults = {"eval_legacy": False, "seg_token_num": 1, "image_feature_scale_num": 1, "pad_train_clip_images": False}
    differing = {flag for flag, value in published.items() if (found[flag] or defaults.get(flag, found[flag])) != value}
    assert differing <= documented_differences(folder, name), {
        flag: (published[flag], found[flag]) for flag in differing
    }
    prose = (ROOT / "docs/recipes.md").read_text(encoding="utf-8").partition("## Where they differ")[2]
    undocumented = {flag for flag in differing - {"data", "gpus"} if f"`--{flag}" not in prose}
    assert not undocumented, f"docs/recipes.md, Where they differ, does not name {undocumented}"


# --- what the documents say ------------------------------------------------------------------------------------------


def described(recipe: str) -> str:
    """The row of a recipe in docs/recipes.md."""
    config = settings(recipe)
    equal = len(set(config.rates)) == 1
    trained = []
    for family, share in zip(config.families, config.rates, strict=True):
        sets = config.refer_seg_data.split("||") if {"refer_seg_data", family} <= {*config.given, "refer_seg"} else []
        name = family.removesuffix("_seg") + (f" ({', '.join(sets)})" if sets else "")
        trained.append(name if equal else f"{name} {share:g}")
    every = str(config.eval_interval) if config.eval_interval else "epoch"
    scores = {}
    for source, splits in recipe_file(recipe).get("published", {}).items():
        if "/" in source:  # a checkpoint, not a table of the paper
            for split, score in splits.items():
                scores.setdefault(split, []).append(f"{score['gIoU']:.2f} / {score['cIoU']:.2f}")
    published = "; ".join(f"{split.replace('|', ' ')}: {', '.join(pairs)}" for split, pairs in scores.items())
    cells = (f"`{recipe}`", str(recipe_file(recipe)["lr"]), ", ".join(trained), f"{config.dice_loss_weight:g}",
             f"{config.steps_per_epoch} × {config.epochs}", every, config.val_splits[0].replace("|", " "),
             published or "–")  # fmt: skip
    return f"| {' | '.join(cells)} |"


def test_the_table_of_recipes_is_that_of_the_files():
    rows = [described(recipe) for recipe in recipe_names()]
    numbers = (ROOT / "docs/recipes.md").read_text(encoding="utf-8").partition("## Numbers")[2]
    written = [line for line in numbers.splitlines() if line.startswith("| `")]
    assert written == rows, "the table should be:\n" + "\n".join(rows)


def test_every_checkpoint_of_the_model_zoo_is_beside_its_recipe():
    text = (ROOT / "docs/model_zoo.md").read_text(encoding="utf-8").replace("\\|", "¦")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "/hf-UGround" in line]
    zoo = {(hub_id, split.strip("`").replace("¦", "|"), float(giou), float(ciou))
           for hub_id, _, split, giou, ciou in (row for row in rows if len(row) == 5)}  # fmt: skip
    beside = {(source, split, score["gIoU"], score["cIoU"])
              for recipe in recipe_names()
              for source, splits in recipe_file(recipe).get("published", {}).items() if "/" in source
              for split, score in splits.items()}  # fmt: skip
    assert len(zoo) == 12 and beside <= zoo
    assert all("_mix" in hub_id for hub_id, *_ in zoo - beside)  # no script is published for these
