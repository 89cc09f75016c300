"""Settings from files: recipes, files of one's own, and the file that repeats a run."""

import shlex

import pytest

from groundscore.errors import UserError
from training.arguments import given_flags, parse_arguments
from training.config import TrainingConfig
from training.config_files import NOT_REPEATED, settings_text
from utils.recipes import recipe_names

RECIPE = "7b_reason_seg_val/uground_llava1.5_ema"


@pytest.fixture
def file(tmp_path):
    """Writes a file of settings; returns its path as a flag takes it."""

    def write(text: str | bytes, name: str = "my.yaml") -> str:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def settings_of(config: TrainingConfig) -> dict:
    return {name: value for name, value in config.to_dict().items() if name not in NOT_REPEATED}


def test_flags_win_over_a_file_and_a_file_over_a_recipe(file):
    path = file("epochs: 7\nlr: 1e-5\nabout: a try\npublished: {nowhere: {a|val: {gIoU: 1}}}\ngpus: 3\n")
    config = parse_arguments(["--recipe", RECIPE, "--config", path, "--lr", "2e-5"])
    assert (config.steps_per_epoch, config.epochs, config.lr) == (200, 7, 2e-5)
    assert config.given == {*parse_arguments(["--recipe", RECIPE]).given, "config"}  # as if all stood on the line
    assert {"lr", "epochs", "mode", "recipe"} <= config.given and "seed" not in config.given


def test_values_are_those_of_the_command_line(file):
    path = file(
        "# sets\n'dataset': \"refer_seg||vqa\"\nsample_rates: 3,1\nplain_rows: true\nauto_resume: False\n"
        "no_eval: true\nnum-workers: 3\nexp_name: 2024-01-01\nexplanatory: -1\nmemo: ''\ncustom_data: \"null\"\n"
    )
    config = parse_arguments(["--config", path])
    flags = ["--dataset=refer_seg||vqa", "--sample_rates=3,1", "--plain_rows", "--no_resume", "--no_eval", "--memo="]
    flags += ["--num_workers=3", "--exp_name=2024-01-01", "--explanatory=-1", "--custom_data=null"]
    assert settings_of(config) == settings_of(parse_arguments(flags))
    assert config.given == parse_arguments(flags).given | {"config"}


def test_a_switch_can_be_turned_off_again(file):
    assert parse_arguments(["--config", file("no_eval: true\npack: false\n")]).no_eval
    config = parse_arguments(["--recipe", RECIPE, "--config", file("use_expand_question_list: false\n")])
    assert config.use_expand_question_list is False and config.pack


def test_the_written_file_repeats_every_setting(file):
    flags = "--exp_name 'a: b # c' --unfreeze '' --lr 1.2345678901234567e-7 --seed 3 --plain_rows --no_resume --layer 3"
    odd = ["--no_eval", "--val_dataset=", "--log_base_dir=ünï\ncode\t\\\"'\udc80", "--custom_data=true"]
    odd += ["--cache_features= ~", "--memo=x"]
    for argv in ([], ["--recipe", RECIPE], ["--recipe", "13b/pixellm"], [*shlex.split(flags), *odd]):
        config = parse_arguments(argv)
        again = parse_arguments(["--config", file(settings_text(config, launch=1, processes=2))])
        assert settings_of(again) == settings_of(config)
        assert again.memo == ""  # a note on one launch


def test_given_flags_are_the_same_settings_without_files(file):
    flags = ["--lr", "1e-4", "--negative_sampling_weight=-1", "--memo", "two words"]
    config = parse_arguments(["--recipe", RECIPE, "--config", file("plain_rows: true\nno_eval: false\n"), *flags])
    line = given_flags(config)
    assert settings_of(parse_arguments(line)) == settings_of(config)
    assert not {"--recipe", "--config", "--print_flags"} & set(line)
    assert ["--plain_rows" in line, "--no_eval" in line] == [True, False]


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_valid(name):
    assert parse_arguments(["--recipe", name]).recipe == name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\n", ["line 1", "unknown flag --a"]),
        ("lr: 1\n\nlora_rr: 8\n", ["line 3", "--lora_rr", "did you mean --lora_r?"]),
        ("vis_save_path: x\n", ["line 1", "chat.py"]),
        ("lr: fast\n", ["line 1", "--lr", "fast"]),
        ("mode: 7\n", ["line 1", "--mode", "7"]),
        ("epochs: 3\nlr: -1\n", ["--lr -1", "--lr is set in", "line 2"]),
        ("epochs: 3\nstart_epoch: 3\n", ["--start_epoch is set in", "line 2", "--epochs is set in", "line 1"]),
        ("model_key: SAM\n", ["--model_key SAM", "line 1"]),
        ("pack: yes\n", ["line 1", "--pack yes", "true or false"]),
        ("pack: true\nplain_rows: true\n", ["line 2", "plain_rows", "line 1"]),
        ("lr: 1\nlr: 2\n", ["line 2", "lr", "line 1"]),
        ("lr:\n", ["line 1", "lr", "no value"]),
        ("vision_tower: ~\n", ["no value"]),
        ("sample_rates: [12, 12]\n", ["line 1", "sample_rates", "one value"]),
        ("? [a]\n: 1\n", ["line 1", "name of a flag"]),
        ("config: other.yaml\n", ["line 1", "config", "command line"]),
        ("help: true\n", ["line 1", "command line"]),
        ("print-flags: true\n", ["command line"]),
        ("# nothing\n", ["no settings"]),
        ("just text\n", ["no settings"]),
        ("- lr\n", ["no settings"]),
        ("about: x\n", ["no settings"]),
        ("lr: 1\n---\nlr: 2\n", ["line 2", "YAML"]),
        ("lr: [1\n", ["YAML"]),
        ("lr: \"\\UFFFFFFFF\"\n", ["YAML"]),
        ("a: &a [x, x]\nb: &b [*a, *a, *a]\n", ["line 1", "aliases"]),
        ("lr: !!python/object/apply:os.system [id]\n", ["line 1", "tag"]),
        ("about: " + 60_000 * "[" + "\n", ["nested"]),
        (b"lr: \xff\n", ["UTF-8"]),
        (b"\x1f\x8b\x08", ["gzip"]),
        ("lr: \x07\n", ["YAML"]),
        ("", ["empty"]),
        ("# " + (1 << 16) * "x" + "\nlr: 1\n", ["at most 65536"]),
        ((1 << 20) * "# \n", ["MB"]),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_with_file_line_and_key(file, text, words):
    path = file(text)
    with pytest.raises(UserError) as caught:
        parse_arguments(["--config", path])
    for word in [path, *words]:
        assert word in str(caught.value)


def test_a_value_that_a_flag_replaces_is_not_blamed(file):
    with pytest.raises(UserError) as caught:
        parse_arguments(["--config", file("lr: 1\n"), "--lr", "0"])
    assert "my.yaml" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("7b_reason_seg_val/uground_llava1.5", RECIPE),
        ("7b_refer_seg/lisa", "7b/lisa"),
        ("pixellm", "miniature/pixellm"),
        ("7b_reason_seg_vall/uground_lava1.5_ema", RECIPE),
        ("nothing like it", "scripts/recipes"),
        ("", "scripts/recipes"),
        ("../recipes/7b/lisa", "7b/lisa"),
    ],
)
def test_a_recipe_that_is_not_there_is_answered_with_near_names(name, near):
    with pytest.raises(UserError, match="no such recipe") as caught:
        parse_arguments(["--recipe", name])
    assert near in str(caught.value)


def test_every_setting_can_stand_in_a_file():
    text = settings_text(parse_arguments([]), launch=1, processes=2)
    assert text.startswith("# Settings of launch 1, on 2 processes.")
    written = {line.partition(":")[0] for line in text.splitlines()}
    for name, value in settings_of(parse_arguments([])).items():
        assert (name in written) == (value not in (None, "")), name
