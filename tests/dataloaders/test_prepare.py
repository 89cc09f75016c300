"""From downloads to data: plan, fetch, unpack, link, verify, on small archives packed as the official ones are."""

import json
import shutil

import pytest

from dataloaders import inspect
from dataloaders.prepare import unpacking
from dataloaders.prepare.choosing import choose_sets, downloads_of
from groundscore.errors import UserError
from tests.dataloaders.official_downloads import PHOTOS, content, pack, run, zip_of


@pytest.fixture
def layout(data_root, tmp_path_factory):
    """A complete data folder, apart from the folder of the test."""
    root = tmp_path_factory.mktemp("layout") / "data"
    shutil.move(data_root, root)
    data_root.mkdir()
    for split in ("train2017", "val2017"):  # the miniature has them in two places with different images
        for path in (root / "coco" / split, root / PHOTOS / split):
            path.mkdir(parents=True, exist_ok=True)
    for path in sorted((root / PHOTOS / "train2017").iterdir()):
        shutil.copy(path, root / "coco/train2017" / path.name)
    for path in root.glob("refer_seg/refcoco*/refs(*).p"):
        path.with_name(path.name.replace(")", "_exclude_unified)")).write_bytes(path.read_bytes())
    return root


# --- from nothing to data ---------------------------------------------------------------------------------------------


def test_three_commands_lead_from_a_folder_of_downloads_to_data_that_inspect_passes(layout, tmp_path, capsys):
    downloads, root = pack(layout, tmp_path / "mine"), tmp_path / "dataset"
    before = {path.name: path.read_bytes() for path in downloads.iterdir()}

    assert run("fetch", "--dataset_dir", root, "--from", downloads, "--unchecked") == 0
    assert run("unpack", "--dataset_dir", root) == 1  # ReasonSeg|test is not among the downloads
    assert inspect.main(["--dataset_dir", str(root), "--decode"]) == 0

    shown = capsys.readouterr().out
    assert "missing  reason_seg/ReasonSeg|test: reason_seg/ReasonSeg/test of ReasonSeg.zip" in shown
    assert " 0 bad, 1 missing" in shown
    expected, found = content(layout), content(root)
    assert {name: found.get(name) == value for name, value in expected.items() if not name.startswith("custom/")} == {
        name: True for name in expected if not name.startswith("custom/")
    }
    assert (root / PHOTOS / "train2017").is_symlink() or (root / "coco/train2017").is_symlink()
    assert before == {path.name: path.read_bytes() for path in downloads.iterdir()}


def test_every_step_may_be_repeated_and_does_nothing_then(layout, tmp_path, capsys):
    root = tmp_path / "dataset"
    downloads = pack(layout, tmp_path / "mine")
    sets = ("--dataset_dir", root, "--sets", "ade20k,refcoco,pascal_part")
    run("fetch", *sets, "--from", downloads, "--unchecked")
    run("unpack", *sets)
    first = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    capsys.readouterr()

    assert run("fetch", *sets, "--from", downloads) == 0
    assert run("unpack", *sets) == 0
    assert run("plan", *sets) == 0

    shown = capsys.readouterr().out
    assert "unpacked train2014.zip: 0 files written, 0 there" in shown
    assert "everything is there" in shown
    assert first == {path: path.stat().st_mtime_ns for path in root.rglob("*")}


def test_unpacking_that_was_killed_goes_on(layout, tmp_path, monkeypatch):
    root, downloads = tmp_path / "dataset", pack(layout, tmp_path / "mine")
    words = ("unpack", "--dataset_dir", root, "--downloads", downloads, "--sets", "ade20k")
    write, written = unpacking._write, []

    def killed_at_the_third(source, place, size, name):
        if len(written) == 2:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.with_name(f".{place.name}.half").write_bytes(b"half")
            raise KeyboardInterrupt
        written.append(place)
        write(source, place, size, name)

    monkeypatch.setattr(unpacking, "_write", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(*words)
    monkeypatch.setattr(unpacking, "_write", write)
    times = {path: path.stat().st_mtime_ns for path in written}

    assert run(*words) == 0

    assert times == {path: path.stat().st_mtime_ns for path in written}
    expected = {name for name in content(layout) if name.startswith("ade20k/")}
    assert {name for name in content(root) if name.startswith("ade20k/")} == expected


def test_a_plan_says_what_a_recipe_needs_where_it_is_from_and_whether_that_was_checked(tmp_path, capsys):
    root = tmp_path / "dataset"

    assert run("plan", "--dataset_dir", root, "--recipe", "7b_reason_seg_val/uground_llava1.5_ema") == 1

    shown = capsys.readouterr().out
    assert "missing  reason_seg/ReasonSeg|train" in shown and "missing  reason_seg/ReasonSeg|val" in shown
    assert "ReasonSeg|test" not in shown and "refcoco" not in shown
    assert "ReasonSeg.zip  [by hand]" in shown
    assert "seen: dvlab-research/LISA, README.md" in shown
    assert "download all files of the folder of Google Drive" in shown
    assert not root.exists()


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("refcoco|unc|testA", ["refcoco"]),
        ("multirefcocog|umd|val", ["refcocog"]),
        ("refcoco|val", ["refcoco|val"]),
        ("fprefcoco+|test", ["fprefcoco+"]),
        ("ReasonSeg|test_overall", ["ReasonSeg|test"]),
        ("fpReasonSeg|val", ["ReasonSeg|val"]),
        ("MultiReasonSeg|test", ["MultiReasonSeg|test_less", "MultiReasonSeg|test_many"]),
    ],
)
def test_evaluation_sets_of_a_recipe_need_their_files(spec, expected, tmp_path):
    (tmp_path / "mine.yaml").write_text(f"dataset: custom\nval_dataset: {spec}\n")

    sets = choose_sets(tmp_path, recipe=str(tmp_path / "mine.yaml"))

    assert [one.known.name for one in sets] == expected


def test_a_family_names_its_sets_and_an_unknown_name_is_told_with_the_nearest(tmp_path):
    assert {one.family for one in choose_sets(tmp_path, names="sem_seg||vqa")} == {"sem_seg", "vqa"}
    assert [one.known.name for one in choose_sets(tmp_path, names="refcoco")] == ["refcoco"]
    assert [one.known.name for one in choose_sets(tmp_path, names="ReasonSeg")] == [
        f"ReasonSeg|{split}" for split in ("train", "val", "test")
    ]
    with pytest.raises(UserError, match="no data set 'refcoc'.*Did you mean 'refcoco'"):
        choose_sets(tmp_path, names="refcoc")


# --- linking ----------------------------------------------------------------------------------------------------------


def test_own_copies_are_linked_wherever_they_lie_and_never_written_into(layout, tmp_path, capsys):
    own, root = tmp_path / "own", tmp_path / "dataset"
    shutil.copytree(layout / "ade20k", own / "disk1/ADEChallengeData2016")
    shutil.copytree(layout / "coco/train2017", own / "disk2/COCO/Train2017")
    shutil.copytree(layout / "cocostuff/train2017", own / "disk2/stuff/train2017")
    shutil.copytree(layout / "refer_seg/refcoco", own / "annotations/refcoco")
    before = {path: path.stat().st_mtime_ns for path in own.rglob("*")}
    sets = ("--dataset_dir", root, "--sets", "ade20k,cocostuff,refcoco")

    assert run("link", *sets, own) == 0

    assert (root / "ade20k/images/training").resolve() == own / "disk1/ADEChallengeData2016/images/training"
    assert (root / "coco/train2017").resolve() == own / "disk2/COCO/Train2017"
    assert (root / "cocostuff/train2017").resolve() == own / "disk2/stuff/train2017"
    assert (root / "refer_seg/refcoco/refs(unc).p").is_symlink()
    assert "2 of 3 sets are in place" in capsys.readouterr().out  # refcoco lacks its images

    downloads = pack(layout, tmp_path / "downloads")
    zip_of(
        downloads / "ADEChallengeData2016.zip", {"images/training/new.jpg": b"x", "annotations/training/new.png": b"x"}
    )
    run("unpack", *sets, "--downloads", downloads)
    assert run("link", *sets, own) == 0
    inspect.main(["--dataset_dir", str(root), "--decode"])

    assert before == {path: path.stat().st_mtime_ns for path in own.rglob("*")}
    assert "0 bad" in capsys.readouterr().out


def test_copies_instead_of_links_are_independent_of_the_users_own(layout, tmp_path):
    root = tmp_path / "dataset"

    assert run("link", "--dataset_dir", root, "--sets", "ade20k", "--copy", layout) == 0

    assert not any(path.is_symlink() for path in root.rglob("*"))
    expected = {name: value for name, value in content(layout).items() if name.startswith("ade20k/")}
    assert content(root) == expected


# --- verifying --------------------------------------------------------------------------------------------------------


def test_verify_compares_digests_counts_and_areas_with_what_is_published(layout, tmp_path, capsys):
    path = layout / "refer_seg/refcoco/instances.json"
    instances = json.loads(path.read_text())
    for annotation in instances["annotations"]:
        annotation["area"] = 64.0 if annotation["segmentation"][0][0] == 4 else 144.0
    path.write_text(json.dumps(instances))
    words = ("verify", "--dataset_dir", layout, "--sets", "refcoco")

    run(*words)
    shown = capsys.readouterr().out
    assert "right    refer_seg/refcoco/instances.json: 6 of 6 masks have the area that is stated" in shown
    assert "WRONG    refer_seg/images/mscoco/images/train2014: " in shown and "the official set has 82783" in shown

    for annotation in instances["annotations"]:
        annotation["area"] *= 9
    path.write_text(json.dumps(instances))
    (layout / "downloads").mkdir()
    zip_of(layout / "downloads/train2014.zip", {"train2014/a.jpg": b"x"})
    assert run(*words) == 1
    shown = capsys.readouterr().out
    assert "WRONG    refer_seg/refcoco/instances.json: 0 of 6" in shown
    assert "train2014.zip has" in shown and "13510573713" in shown


def test_every_download_says_where_it_is_from_and_what_was_seen(tmp_path):
    for download, sources in downloads_of(choose_sets(tmp_path)).items():
        assert download.url is not None or download.clicks, download.file
        assert str(download.page.value).startswith("http"), download.file
        assert all(source.path.is_relative_to(tmp_path) for source in sources)
