"""Annotation files are parsed once, and again when they have changed."""

import multiprocessing
import os
import pickle
import subprocess
import sys
import types
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks.synthetic import write_synthetic
from groundscore import json_items, reading
from groundscore.annotations import index_cache, records, refer_files
from groundscore.annotations.index_cache import (
    NotIndexed,
    build_in_parallel,
    cache_directory,
    only_opening,
    open_index,
)
from groundscore.annotations.lisa_plus import SUBSETS, PlusFile
from groundscore.annotations.llava import LlavaDialogues
from groundscore.annotations.muse import MuseFile
from groundscore.annotations.part_annotations import PacoLvis, PascalPart
from groundscore.annotations.records import KeyedRecords, PackedRecords, read_tables, write_tables
from groundscore.annotations.refer_files import FALSE_PREMISE_SETS, REFER_SETS, ReferTables
from groundscore.annotations.refer_index import ReferIndex
from groundscore.errors import UserError


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "annotations.json"
    path.write_text("one")
    return path


@pytest.fixture
def open_counted(tmp_path, source):
    """A function that opens the index; `built` counts how often its `build` has made it."""

    def build():
        open_it.built += 1
        return {"texts": PackedRecords([source.read_text(), "two"], [5, 6]), "by_id": {7: [1], 3: [2]}, "none": []}

    def open_it():
        return open_index(tmp_path, "test/texts", [source], build)

    open_it.built, open_it.build = 0, build
    return open_it


def test_an_index_is_built_once(open_counted):
    first, second = open_counted(), open_counted()

    assert open_counted.built == 1
    for tables in (first, second):
        assert list(tables["texts"]) == ["one", "two"]
        assert tables["texts"].keys.tolist() == [5, 6]
        assert (tables["by_id"][3], tables["by_id"][7]) == ([2], [1])
        assert list(tables["none"]) == []


def test_a_changed_source_is_parsed_again(open_counted, source):
    open_counted()
    times = source.stat()
    source.write_text("six")
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))  # same size, and the time set back

    assert open_counted()["texts"][0] == "six"
    source.write_text("seventeen")
    assert open_counted()["texts"][0] == "seventeen"
    assert open_counted.built == 3


def test_a_touched_source_is_not(open_counted, source):
    open_counted()
    os.utime(source, ns=(1, 1))

    assert open_counted()["texts"][0] == "one"
    assert open_counted.built == 1


def test_a_relative_and_an_absolute_path_have_the_same_index(tmp_path, source, monkeypatch):
    built = []
    monkeypatch.chdir(tmp_path)

    for folder in (Path(), tmp_path, Path()):
        open_index(folder, "test/texts", [folder / source.name], lambda: {"built": built.append(1) or []})

    assert len(built) == 1


def test_edited_code_builds_again_and_leaves_nothing_behind(tmp_path, open_counted, monkeypatch):
    code = types.ModuleType("parsing")
    code.__file__ = str(tmp_path / "parsing.py")
    monkeypatch.setitem(sys.modules, "parsing", code)
    open_counted.build.__module__ = "parsing"
    for text in ("one way", "another", "another"):
        (tmp_path / "parsing.py").write_text(text)
        tables = open_counted()

    assert open_counted.built == 2
    assert tables["texts"][0] == "one"
    assert sorted(path.suffix for path in cache_directory(tmp_path).glob("*")) == ["", ".arrow", ".json", ".lock"]


@pytest.mark.parametrize("damage", ["cut", "empty", "no stamp"])
def test_a_damaged_index_is_built_again(open_counted, tmp_path, damage):
    open_counted()
    (file,) = cache_directory(tmp_path).glob("*.arrow")
    if damage == "no stamp":
        file.with_suffix(".json").unlink()
    else:
        file.write_bytes(file.read_bytes()[:-40] if damage == "cut" else b"")

    assert open_counted()["texts"][0] == "one"
    assert open_counted.built == 2


@pytest.mark.parametrize("share", np.linspace(0, 0.999, 8))
def test_one_flipped_bit_builds_the_index_again(open_counted, tmp_path, caplog, share):
    open_counted()
    (file,) = cache_directory(tmp_path).glob("*.arrow")
    content = bytearray(file.read_bytes())
    content[int(len(content) * share)] ^= 4
    file.write_bytes(content)

    assert list(open_counted()["texts"]) == ["one", "two"]
    assert open_counted.built == 2
    assert [record.getMessage() for record in caplog.records] == [
        f"{file} is damaged: its content is not what was written; it is rebuilt"
    ]


def test_a_copied_index_is_read_once_and_then_trusted(open_counted, tmp_path):
    open_counted()
    (file,) = cache_directory(tmp_path).glob("*.arrow")
    stamp = file.with_suffix(".json").read_bytes()
    os.utime(file, ns=(1, 1))

    open_counted()

    assert open_counted.built == 1
    assert file.with_suffix(".json").read_bytes() != stamp


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b'{"seal": 1, "stamp": {}}', b'{"seal": "' + "é".encode() + b'", "stamp": 1}', b"\xff"],
)
def test_a_damaged_stamp_builds_the_index_again(open_counted, tmp_path, content):
    open_counted()
    (stamp,) = cache_directory(tmp_path).glob("*.json")
    stamp.write_bytes(content)

    assert list(open_counted()["texts"]) == ["one", "two"]
    assert open_counted.built == 2


def test_an_index_that_came_with_a_data_set_is_not_read(open_counted, tmp_path, monkeypatch):
    """Its author has written the same data with the same program, but with another key, and put other texts into it."""
    monkeypatch.setenv("HOME", str(tmp_path / "author"))
    open_counted()
    (theirs,) = cache_directory(tmp_path).glob("*.arrow")
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    open_counted()
    (ours,) = set(cache_directory(tmp_path).glob("*.arrow")) - {theirs}
    assert open_counted.built == 2

    for suffix in (".arrow", ".json"):  # and now under the name that ours has
        os.replace(theirs.with_suffix(suffix), ours.with_suffix(suffix))

    assert list(open_counted()["texts"]) == ["one", "two"]
    assert open_counted.built == 3
    assert (tmp_path / "user/.cache/uground/index.key").stat().st_mode & 0o077 == 0


def test_a_link_in_the_cache_of_a_data_set_is_not_written_through(open_counted, tmp_path):
    (tmp_path / ".uground_cache").mkdir()
    (tmp_path / ".uground_cache/.gitignore").symlink_to(tmp_path / "elsewhere")

    open_counted()

    assert not (tmp_path / "elsewhere").exists()


def test_a_missing_source_is_named(tmp_path, open_counted, source):
    source.unlink()

    with pytest.raises(UserError, match=r"annotations\.json is missing"):
        open_counted()


def test_the_cache_can_lie_elsewhere(tmp_path, open_counted, monkeypatch):
    monkeypatch.setenv("UGROUND_CACHE_DIR", str(tmp_path / "elsewhere"))

    open_counted()

    assert list((tmp_path / "elsewhere").glob("*.arrow"))
    assert not (tmp_path / ".uground_cache").exists()


def test_a_folder_that_cannot_be_written_is_not_needed(tmp_path, open_counted, monkeypatch):
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    (tmp_path / ".uground_cache").write_text("a file is in the way")

    open_counted()
    assert list(home.glob(".cache/uground/*/*.arrow"))

    home.rename(tmp_path / "gone")
    home.write_text("another")
    assert open_counted()["by_id"][3] == [2]


def test_a_user_without_a_home_needs_no_index(open_counted, monkeypatch):
    def unknown():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", unknown)

    assert list(open_counted()["texts"]) == ["one", "two"]


def test_records_without_some_keys_are_the_others(open_counted):
    texts = open_counted()["texts"]

    assert list(texts.without({5})) == ["two"]
    assert list(texts.take(np.array([1, 0]))) == ["two", "one"]
    assert list(texts.without({5}).without({6})) == []


def test_records_open_their_file_again_in_another_process(open_counted):
    tables = open_counted()

    copies = pickle.loads(pickle.dumps([tables["texts"].without({5}), tables["by_id"], PackedRecords([1, 2])]))

    assert len(pickle.dumps(tables["texts"])) < 1000
    assert [list(copies[0]), copies[1][7], list(copies[2])] == [["two"], [1], [1, 2]]
    assert isinstance(copies[1], KeyedRecords)


def _build_slowly():
    with _log.open("a") as file:
        file.write("built\n")
    return {"values": range(1000)}


def _open_concurrently(root):
    global _log
    _log = root / "log"
    return sum(open_index(root, "values", [root / "annotations.json"], _build_slowly)["values"])


def test_processes_that_start_together_build_once(tmp_path, source):
    context = multiprocessing.get_context("fork")
    with context.Pool(4) as pool:
        sums = pool.map(_open_concurrently, [tmp_path] * 4)

    assert sums == [sum(range(1000))] * 4
    assert (tmp_path / "log").read_text() == "built\n"


def test_an_index_is_read_without_pandas(tmp_path):
    path = tmp_path / "index.arrow"
    write_tables(path, {"texts": ["one", "two"], "by_id": {7: [1], 3: [2]}, "none": []})
    tables = read_tables(path)
    assert list(tables["by_id"].records.keys) == [3, 7] and tables["by_id"][7] == [1] and len(tables["none"].keys) == 0

    read = "from groundscore.annotations.records import read_tables; read_tables(Path(sys.argv[1]))"
    program = f"import sys; from pathlib import Path; {read}; sys.exit('pandas' in sys.modules)"
    subprocess.run([sys.executable, "-c", program, str(path)], cwd=Path(__file__).parents[3], check=True, timeout=60)


def open_everything(root: Path) -> None:
    for sets in (REFER_SETS, FALSE_PREMISE_SETS):
        for name in sets:
            ReferTables(root, name, sets)
    for kind in (PacoLvis, PascalPart):
        kind(root)
    LlavaDialogues(root, "llava_instruct_150k")
    MuseFile(root, "MultiReasonSeg", "train")
    for name in SUBSETS:
        PlusFile(root, name)


def test_indices_have_the_same_bytes_without_orjson(tmp_path, monkeypatch):
    write_synthetic(tmp_path / "data", 60)
    monkeypatch.setattr(json_items, "CHUNK", 3000)
    found = []
    for name in ("with", "without"):
        monkeypatch.setenv("UGROUND_CACHE_DIR", str(tmp_path / name))
        open_everything(tmp_path / "data")
        files = (tmp_path / name).glob("*.arrow")
        found.append(sorted((file.name.rpartition("-")[0], file.read_bytes()) for file in files))
        monkeypatch.setattr(reading, "orjson", None)
        monkeypatch.setattr(records, "orjson", None)

    assert found[0] == found[1]
    assert len(found[0]) == 23


def test_all_splits_of_a_referring_set_parse_its_files_once(data_root, monkeypatch):
    read = []
    whole = refer_files.read_members
    monkeypatch.setattr(refer_files, "read_members", lambda path: read.append(path.parent.name) or whole(path))

    for split in ("train", "val", "train"):
        ReferIndex(data_root, "refcoco", split)

    assert read == ["refcoco"]


def build_one():
    return {"values": [1]}


def build_bad():
    raise UserError("what is wrong")


def tell_process():
    return {"process": [os.getpid()]}


def open_with_its_builder(source: Path) -> int:
    return open_index(source.parent, source.stem, [source], tell_process)["process"][0]


def test_missing_indices_are_built_by_processes_of_their_own_and_then_opened(tmp_path, monkeypatch):
    sources = [tmp_path / f"{number}.json" for number in range(4)]
    for source in sources:
        source.write_text("1")
    monkeypatch.setattr(index_cache, "_WORTH_PROCESSES", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    openings = [partial(open_with_its_builder, source) for source in sources]
    with only_opening(), pytest.raises(NotIndexed):
        openings[0]()
    build_in_parallel(tmp_path, openings)

    with only_opening():
        builders = {each() for each in openings}
    assert 1 <= len(builders) <= 2 and os.getpid() not in builders
    monkeypatch.setattr(index_cache, "ProcessPoolExecutor", None)
    build_in_parallel(tmp_path, openings)  # nothing is missing


def test_an_error_in_one_of_several_files_is_left_to_who_opens_it(tmp_path, monkeypatch):
    monkeypatch.setattr(index_cache, "_WORTH_PROCESSES", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    (tmp_path / "good.json").write_text("1")
    (tmp_path / "bad.json").write_text("1")
    good, bad, absent = (
        partial(open_index, tmp_path, name, [tmp_path / f"{name}.json"], build)
        for name, build in (("good", build_one), ("bad", build_bad), ("absent", build_bad))
    )
    build_in_parallel(tmp_path, [absent, bad, good])

    with only_opening():
        assert list(good()["values"]) == [1]
    with pytest.raises(UserError, match="what is wrong"):
        bad()
