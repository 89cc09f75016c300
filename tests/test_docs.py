"""What README and docs say exists: commands parse, scripts start, files, flags, code and links are there."""

import argparse
import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from docs import tables
from groundscore.flags import UserParser
from tests.page_plugins import importable_plugins

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / f"{folder}README.md" for folder in ("", "dataloaders/", "groundscore/")),
    *sorted((ROOT / "miniature").glob("weights*/README.md")),
    ROOT / "groundscore/DATA.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]
_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"`([^`\n]+)`")
_SHELL = ("bash", "sh", "")

# Words at the start of a command line that are programs of others.
OTHERS = {"source", "tensorboard", "ssh", "pip", "apt-get"}
LAUNCHERS = {"deepspeed", "torchrun", "srun"}


@dataclass(frozen=True)
class Command:
    """A command line of a page. variables: assigned in front of it; words: without comments and redirections."""

    page: str
    variables: tuple[tuple[str, str], ...]
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)[:70]}"


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def prose(text: str) -> str:
    """The page without its fenced blocks."""
    return _BLOCK.sub("", text)


def command_lines(text: str) -> list[str]:
    """Lines of shell blocks and inline code, continuations joined."""
    blocks = [match[3] for match in _BLOCK.finditer(text) if match[2] in _SHELL]
    blocks += [code.replace("\\|", "|") for code in _CODE.findall(prose(text))]
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def commands_of(page: str) -> list[Command]:
    """Every command of ours in a page."""
    found, shell = [], {}
    for line in command_lines(read(ROOT / page)):
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue
        variables = []
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            name, _, value = words.pop(0).partition("=")
            variables.append((name, value))
        if not words:
            shell.update(variables)
            continue
        words = [re.sub(r"\$\{?(\w+)\}?", lambda match: shell.get(match[1], match[0]), word) for word in words]
        words = words[: next((at for at, word in enumerate(words) if word in (">", "|", "2>", "&&")), len(words))]
        if words[:1] == ["srun"] and words[-1].endswith(".sh"):
            words = words[-1:]
        if is_ours(words):
            found.append(Command(page, tuple(variables), tuple(words)))
    return found


def is_ours(words: list[str]) -> bool:
    first = words[0].removeprefix(".venv/bin/")
    if words[1:3] == ["-m", "lmms_eval"]:
        return False
    if first == "groundscore":
        return len(words) > 2
    if first.startswith("./") or (first in ("python", *LAUNCHERS) and len(words) > 1):
        return True
    return bool(re.fullmatch(r"\w+\.py", first)) and len(words) > 1


@cache
def all_commands() -> list[Command]:
    return [command for page in NAMES for command in commands_of(page)]


def program_and_arguments(words: tuple[str, ...]) -> tuple[str, list[str]]:
    """The module that a Python command starts and the arguments for it."""
    words = list(words)
    if words[0] == "groundscore":
        return words[0], words[1:]
    scripts = [at for at, word in enumerate(words) if word.endswith(".py")]
    if "-m" in words and (not scripts or words.index("-m") < scripts[0]):
        at = words.index("-m") + 1
        module = words[at]
    elif scripts:
        at = scripts[0]
        module = words[at].removesuffix(".py").replace("/", ".")
    else:
        raise AssertionError(f"{words} starts no program of ours")
    return module, words[at + 1 :]


class Parsed(Exception):
    """The real parser accepted a command's arguments."""


def accept(monkeypatch, module: str, arguments: list[str]) -> None:
    """Hand `arguments` to the program's own parser; nothing behind the parser runs. Raises SystemExit if refused."""
    for parser, method in ((UserParser, "parse"), (argparse.ArgumentParser, "parse_args")):
        real = getattr(parser, method)

        def parse(self, *args, _real=real, **kwargs):
            _real(self, *args, **kwargs)
            raise Parsed

        monkeypatch.setattr(parser, method, parse)
    name = f"{module}.__main__" if (ROOT / module.replace(".", "/")).is_dir() else module
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    program = import_module(name)
    with pytest.raises(Parsed):
        program.main(arguments) if program.main.__code__.co_argcount else program.main()


PYTHON = [command for command in all_commands() if not command.words[0].startswith("./")]
SHELL = [command for command in all_commands() if command.words[0].startswith("./")]
# Named without arguments, only the module has to be there; one test for each set of arguments.
DISTINCT = {program_and_arguments(command.words)[0] + shlex.join(command.words): command for command in PYTHON}


def test_the_pages_have_commands():
    assert len(PYTHON) > 40 and len(SHELL) > 15


@pytest.fixture
def plugins(tmp_path):
    """The plugins that pages are made of can be imported."""
    with importable_plugins(tmp_path):
        yield


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize("command", DISTINCT.values(), ids=str)
def test_the_arguments_of_every_python_command_parse(command, monkeypatch):
    module, arguments = program_and_arguments(command.words)
    if module == "pytest":
        assert all(re.match("-|slow$", word) or (ROOT / word).exists() for word in arguments)
        return
    assert importlib.util.find_spec(module), f"there is no module {module}"
    if not arguments or "…" in command.words:  # "…" stands for the rest: its flags are checked by name below
        return
    if module == "train_ds":
        from training.arguments import parse_arguments
        from utils.recipes import find_recipe

        if arguments == ["-h"]:
            with pytest.raises(SystemExit) as ended:
                parse_arguments(arguments)
            assert not ended.value.code
            return
        settings = str(find_recipe("7b/lisa"))  # in place of the files of a user's own
        parse_arguments([settings if flag == "--config" else word for flag, word in zip(["", *arguments], arguments)])
    else:
        accept(monkeypatch, module, arguments)


@pytest.mark.parametrize("command", {shlex.join(each.words): each for each in SHELL}.values(), ids=str)
def test_every_script_starts_dry(command):
    script = ROOT / command.words[0]
    assert os.access(script, os.X_OK), f"{script} is not a program"
    recipe = "common.sh" in script.read_text(encoding="utf-8")
    words, variables = ([*command.words], {"DRY_RUN": "1"}) if recipe else ([command.words[0], "--help"], {})
    done = subprocess.run(
        words,
        cwd=ROOT,
        env=os.environ | dict(command.variables) | variables,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    if not recipe:
        named = {word for word in command.words[1:] if word.startswith("--")}
        passed_on = script.name in ("test.sh", "quickstart.sh")  # to pytest, to train_ds.py
        assert passed_on or all(word in done.stdout for word in named), f"{named} not in {done.stdout}"


@cache
def known_flags() -> set[str]:
    """Flags of all programs: those of the five parsers, and long options in the sources of the others."""
    flags = {"--help", "--standalone", "--nproc_per_node", "--ntasks-per-node"}  # of launchers
    flags |= {"--include", "--hostfile", "--master_port", "--logdir", "--signal"}
    for program in ("training.arguments", "eval", "chat", "app", "merge_lora_weights"):
        parser = import_module(program).build_parser()
        flags |= {flag for action in parser._actions for flag in action.option_strings}
    for path in [*tracked("*.py"), *tracked("*.sh")]:
        flags |= set(re.findall(r"(?<!\w)--[a-z][\w-]*", read(path)))
    return flags


@cache
def tracked(pattern: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", pattern], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / line for line in listed.splitlines() if (ROOT / line).is_file()]


@pytest.mark.parametrize("page", NAMES)
def test_every_flag_that_is_named_exists(page):
    named = {
        flag for code in _CODE.findall(prose(read(ROOT / page))) for flag in re.findall(r"(?<!\w)--[a-z][\w-]*", code)
    }
    assert not named - known_flags()


@cache
def words_of_the_source() -> set[str]:
    """All identifiers and words in strings of the program's sources and its data descriptions, docs excluded."""
    words: set[str] = set()
    for path in [*tracked("*.py"), *tracked("*.sh"), *tracked("*.toml"), *tracked("*.css")]:
        if path != Path(__file__) and path.parent.name != "docs":
            words |= set(re.findall(r"[A-Za-z_]\w*", read(path)))
    return words


@pytest.mark.parametrize("page", NAMES)
def test_every_name_of_code_exists(page):
    """`some_name`, `SomeName`, `some.name` and `name()` in backticks are words of the sources."""
    unknown = set()
    for code in _CODE.findall(prose(read(ROOT / page))):
        if re.fullmatch(r"[A-Za-z_][\w.]*(\(.*\))?", code) and re.search(r"[_.(]|[a-z][A-Z]", code):
            if Path(code).suffix[1:] in (
                "py",
                "sh",
                "md",
                "json",
                "jsonl",
                "html",
                "log",
                "lock",
                "pth",
                "p",
                "bin",
                "toml",
                "txt",
                "yaml",
            ):
                continue  # a file, below
            unknown |= set(re.findall(r"[A-Za-z_]\w*", code.partition("(")[0])) - words_of_the_source()
    assert not unknown


# Files of a user's data and runs, which no repository holds.
USERS = re.compile(
    r"(runs|dataset|masks|DATASET_DIR|custom|coco|cocostuff|mscoco|llava_dataset|meta|\.partial|~|OUT|DIR|DATA)\b.*|.*[*<{].*"
)
FOREIGN = {"zero_to_fp32.py"}  # DeepSpeed's


@pytest.mark.parametrize("page", NAMES)
def test_every_file_of_ours_that_is_named_exists(page):
    missing = set()
    for code in _CODE.findall(prose(read(ROOT / page))):
        path = code.removeprefix("./")
        if " " in code or not re.fullmatch(r"[\w./+-]+", path) or USERS.match(path):
            continue
        if re.search(r"\w\.(py|sh|md|toml)$", path) or (path.endswith("/") and len(path) > 1):
            places = [ROOT / path, (ROOT / page).parent / path]
            inside = [each for each in tracked("*") if "/" not in path and each.name == path]
            if not inside and not any(place.exists() for place in places):
                missing.add(code)
    assert not missing - FOREIGN


def anchors(page: Path) -> set[str]:
    """The anchors that the headings of a page have."""
    headings = re.findall(r"^#+ (.*)$", prose(read(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", NAMES)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(read(ROOT / page))):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (ROOT / page).parent / path if path else ROOT / page
        assert there.exists(), f"{target} is not there"
        assert not anchor or anchor in anchors(there), f"{target}: no such heading"


def test_every_page_is_one_link_from_the_readme():
    linked = set(re.findall(r"\]\((docs/\w+\.md)\)", read(ROOT / "README.md")))
    assert linked >= {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")}


def test_the_readme_fits():
    lines = read(ROOT / "README.md").splitlines()
    assert len(lines) < 200
    screen = "\n".join(lines[:30])
    assert all(part in screen for part in ("./scripts/quickstart.sh", "./scripts/test.sh", "![", "<!-- table"))


@pytest.mark.parametrize("page", NAMES)
def test_measured_tables_come_from_their_reports(page):
    text = read(ROOT / page)
    assert tables.fill(text) == text, "run python docs/tables.py"


@pytest.mark.parametrize("page", NAMES)
def test_python_in_pages_imports_what_exists(page):
    for match in _BLOCK.finditer(read(ROOT / page)):
        if match[2] == "python":
            for node in ast.walk(ast.parse(match[3])):
                if isinstance(node, ast.ImportFrom):
                    module = import_module(node.module)
                    assert all(hasattr(module, alias.name) for alias in node.names)
