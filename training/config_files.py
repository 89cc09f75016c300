"""Settings in YAML files: recipes of published runs, files of your own, and the file that repeats a run.

    version: dataset/llava-v1.5-7b     # a flag of train_ds.py without its dashes: its value as on the command line
    lr: 3e-4
    pad_train_clip_images: true        # a switch is true or false

`about`, `published` (scores) and `gpus` (processes) describe a recipe; training does not read them. A recipe is
`scripts/recipes/<name>.yaml`. Values are text here and become what the flag's parser makes of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from groundscore.errors import UserError, shown
from groundscore.reading import read_bytes
from training.config import TrainingConfig
from utils.flags import FlagParser
from utils.settings import settings_of

DESCRIPTION = ("about", "published", "gpus")
COMMAND_LINE_ONLY = ("help", "plugin", "recipe", "config", "print_flags", "local_rank")
NOT_REPEATED = (*COMMAND_LINE_ONLY, "memo", "debug")  # what is about one launch
DEEPEST = 4  # `published`: source, split, score
LARGEST = 1 << 16  # bytes of a file; a run's has about 4000


@dataclass(frozen=True)
class FileSetting:
    """The value of a flag, in the flag's own type, and where it stands: "my.yaml, line 7"."""

    value: Any
    where: str


def file_settings(path: Path, parser: FlagParser) -> dict[str, FileSetting]:
    """The settings of a file by the names of the configuration's fields, each checked as its flag is.

    Raises `UserError`, with the file, the line and the key, for what `parser` does not take, for a field that is set
    twice, and for YAML with more than keys and values (anchors, tags, several documents).
    """
    settings: dict[str, FileSetting] = {}
    for key, text, where in _entries(path):
        if key.replace("-", "_") in COMMAND_LINE_ONLY:
            raise UserError(f"{where}: {key} belongs to the command line, not to a file")
        try:
            name, value = parser.setting(key, text)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        if name in settings:
            raise UserError(f"{where}: {key} was already set in {settings[name].where}; keep one of the two")
        settings[name] = FileSetting(value, where)
    if not settings:
        raise UserError(f"{path} has no settings; expected lines such as lr: 3e-4")
    return settings


def settings_text(config: TrainingConfig, launch: int, processes: int) -> str:
    """A YAML file with every setting of a launch that has a value, by group; `--config` reads it.

    processes: how many the launch has. It is no setting, but the global batch depends on it: the head of the file says
    it.
    """
    groups: dict[str, list[str]] = {}
    for name, setting in settings_of(type(config)).items():
        value = getattr(config, name)
        unset = value is None or value == setting.default == ""
        if name not in NOT_REPEATED and not unset:
            line = yaml.safe_dump({name: value}, allow_unicode=True, width=float("inf"))
            groups.setdefault(setting.group, []).append(line)
    plugin = f" --plugin {config.plugin}" if config.plugin else ""
    started = "one process" if processes == 1 else f"{processes} processes"
    title = (
        f"# Settings of launch {launch}, on {started}. Started on as many, `train_ds.py --config FILE{plugin}`\n"
        "# repeats it; flags beside it win.\n"
    )
    return title + "".join(f"\n# {group}\n{''.join(lines)}" for group, lines in groups.items())


def _entries(path: Path) -> Iterator[tuple[str, str, str]]:
    """Key, value and position ("FILE, line N") of every setting of a file; the description is left out."""
    content = read_bytes(path, missing="name a file of settings, such as a run's config.yaml", megabytes=1)
    if len(content) > LARGEST:
        raise UserError(f"{path} has {len(content)} bytes; a file of settings has at most {LARGEST}")
    try:
        text = content.decode("utf-8-sig")
        _check_structure(text, path)
        root = yaml.compose(text, Loader=yaml.BaseLoader)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}{line}: not valid YAML ({error.problem})") from error
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise UserError(f"{path} is not valid YAML ({str(error).splitlines()[0][:200]})") from error
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"{path} has no settings; expected lines such as lr: 3e-4")
    for key, value in root.value:
        where = f"{path}, line {key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode):
            raise UserError(f"{where}: a key must be the name of a flag")
        if key.value in DESCRIPTION:
            continue
        if not isinstance(value, yaml.ScalarNode):
            raise UserError(f"{where}: {shown(key.value)} needs one value, written as on the command line (a||b, 1,2)")
        if value.style is None and value.value.lower() in ("", "~", "null"):
            raise UserError(f"{where}: {shown(key.value)} has no value; leave the key out for the default")
        yield key.value, value.value, where


def _check_structure(text: str, path: Path) -> None:
    """Refuse all that a list of settings does not need, before anything is built from it."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.BaseLoader):
        where = f"{path}, line {event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise UserError(f"{where}: anchors and aliases are not read; write the value out")
        if getattr(event, "tag", None) is not None:
            raise UserError(f"{where}: the tag {shown(event.tag)} is not read; leave it out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise UserError(f"{where}: nested too deeply; settings are lines of a name and a value")
