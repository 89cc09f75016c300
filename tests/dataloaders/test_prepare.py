"""From downloads to data: plan, fetch, unpack, link, verify, on small archives packed as the official ones are."""

import hashlib
import http.server
import io
import json
import os
import shutil
import tarfile
import threading
import time
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from dataloaders import inspect
from dataloaders.downloads import TRAIN2014, Download, Fact, Source
from dataloaders.prepare import __main__ as prepare
from dataloaders.prepare import unpacking
from dataloaders.prepare.choosing import choose_sets, downloads_of
from dataloaders.prepare.fetching import Options, fetch
from groundscore.errors import UserError

PHOTOS = "refer_seg/images/mscoco/images"


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


def zip_of(path: Path, files: dict[str, Path | bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content if isinstance(content, bytes) else content.read_bytes())
    return path


def below(folder: Path, prefix: str, pattern: str = "*") -> dict[str, Path]:
    return {f"{prefix}/{path.relative_to(folder)}": path for path in sorted(folder.rglob(pattern)) if path.is_file()}


def pack(root: Path, to: Path) -> Path:
    """Every official download of the data folder `root`: flat, in folders, nested, as tar and as plain files."""
    to.mkdir()
    refer, photos = root / "refer_seg", root / PHOTOS
    zip_of(to / "train2014.zip", below(photos / "train2014", "train2014"))
    zip_of(to / "val2014.zip", below(refer / "refzom/val2014", "val2014"))
    zip_of(to / "train2017.zip", below(root / "coco/train2017", "train2017"))
    zip_of(to / "val2017.zip", below(photos / "val2017", "val2017"))
    ade = {**below(root / "ade20k", "ADEChallengeData2016"), "ADEChallengeData2016/objectInfo150.txt": b"1"}
    zip_of(to / "ADEChallengeData2016.zip", ade)
    zip_of(to / "stuffthingmaps_trainval2017.zip", below(root / "cocostuff/train2017", "train2017"))
    zip_of(to / "mapillary-vistas-dataset_public_v2.0.zip", below(root / "mapillary", "mapillary"))
    with tarfile.open(to / "VOCtrainval_03-May-2010.tar", "w") as archive:
        archive.add(root / "vlpart/pascal_part/VOCdevkit", "VOCdevkit")
    with tarfile.open(to / "pascal_part.tar.gz", "w:gz") as archive:
        archive.add(root / "vlpart/pascal_part/train.json", "pascal_part/train.json")
    paco = root / "vlpart/paco/annotations/paco_lvis_v1_train.json"
    zip_of(to / "paco_lvis_v1.zip", {"paco_lvis_v1_train.json": paco, "paco_lvis_v1_val.json": b"{}"})
    for name in ("refclef", "refcoco", "refcoco+", "refcocog"):
        zip_of(to / f"{name}.zip", {**below(refer / name, name, "refs(u??).p"), **below(refer / name, name, "*.json"),
                                    f"__MACOSX/{name}/._instances.json": b"x"})  # fmt: skip
    zip_of(to / "saiapr_tc-12.zip", below(refer / "images/saiapr_tc-12", "saiapr_tc-12"))
    zip_of(to / "grefcoco-2023.zip", {path.name: path for path in (refer / "grefcoco").iterdir()})
    inner = {
        "Ref-ZOM/Ref-ZOM(final).p": refer / "refzom/Ref_ZOM.p",
        "Ref-ZOM/instances.json": refer / "refzom/instances.json",
    }
    zip_of(to / "Ref-ZOM-20240101T000000Z-001.zip", inner)
    sesame = {}
    for folder in (path for path in refer.iterdir() if (path / "instances.json").exists() and path.name != "refzom"):
        sesame |= below(folder, f"refer_seg/{folder.name}", "*unified).p") | below(
            folder, f"refer_seg/{folder.name}", "*.json"
        )
    zip_of(to / "sesame_refer_seg.zip", sesame)
    for path in (root / "llava_dataset").iterdir():
        shutil.copy(path, to)
    for path in (root / "reason_seg_plus").iterdir():
        shutil.copy(path, to)
    zip_of(to / "muse.zip", {f"muse/{path.name.lower()}": path for path in sorted(root.glob("multi_reason_seg/*/*"))})
    base = root / "reason_seg/ReasonSeg"
    parts = {}
    for split in ("train", "val"):
        zip_of(to / f"{split}.part", {path.name: path for path in sorted((base / split).iterdir())})
        parts[f"ReasonSeg/{split}.zip"] = (to / f"{split}.part").read_bytes()
        (to / f"{split}.part").unlink()
    parts["ReasonSeg/explanatory/train.json"] = base / "explanatory/train.json"
    zip_of(to / "ReasonSeg-20240101T000000Z-001.zip", parts)
    return to


def run(*words: object) -> int:
    return prepare.main([str(word) for word in words])


def content(root: Path) -> dict[str, bytes]:
    """The files of a data folder by their paths, of linked folders too; not what the steps keep for themselves."""
    found = {}
    for folder, _, names in os.walk(root, followlinks=True):
        for name in names:
            path = Path(folder, name)
            if not any(part.startswith(".") or part == "downloads" for part in path.relative_to(root).parts):
                found[path.relative_to(root).as_posix()] = path.read_bytes()
    return found


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


# --- fetching ---------------------------------------------------------------------------------------------------------


class Server:
    """Files over HTTP on 127.0.0.1. faults: what happens to the next answers, one each: "break", "stall"."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.faults: list[str] = []
        self.ranges: list[str | None] = []
        self.with_ranges, self.tag = True, '"one"'
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def log_message(self, *words):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, request) -> None:
        body, wanted = self.files.get(request.path.lstrip("/")), request.headers.get("Range")
        self.ranges.append(wanted)
        if body is None:
            request.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.with_ranges else 0
        if request.headers.get("If-Range", self.tag) != self.tag:
            start = 0
        fault = self.faults.pop(0) if self.faults else ""
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(body) - start))
        request.send_header("ETag", self.tag)
        request.end_headers()
        request.wfile.write(body[start : start + 1000] if fault else body[start:])
        if fault == "stall":
            request.wfile.flush()
            time.sleep(1.5)


@pytest.fixture
def server():
    one = Server()
    yield one
    one.http.shutdown()
    one.http.server_close()


BODY = bytes(range(256)) * 40


def small_zip(size: int = 6000) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("train2014/a.jpg", os.urandom(size))
    return out.getvalue()


def download_of(server: Server, body: bytes, file: str = "a.zip", **more) -> Download:
    server.files[file] = body
    digest = Fact(f"sha256:{hashlib.sha256(body).hexdigest()}")
    values = {"size": Fact(len(body)), "digests": (digest,), **more}
    return Download(
        file, "a file", Fact("https://example.org"), Fact("none"), url=Fact(f"{server.url}/{file}"), **values
    )


QUICK = Options(pause=0.0, timeout=0.4, retries=2)


@pytest.mark.parametrize("fault", ["break", "stall"])
def test_a_download_goes_on_where_the_connection_broke_off_or_stalled(fault, server, tmp_path):
    body = small_zip()
    download = download_of(server, body)
    server.faults = [fault, fault]

    result = fetch([download], tmp_path, QUICK, say=[].append)

    assert result.done == [download]
    assert (tmp_path / "a.zip").read_bytes() == body
    assert server.ranges == [None, "bytes=1000-", "bytes=2000-"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip"]


def test_a_download_that_was_killed_goes_on_at_the_next_call(server, tmp_path):
    body = small_zip()
    download = download_of(server, body)
    (tmp_path / ".a.zip.part").write_bytes(body[:500])
    (tmp_path / ".a.zip.part.json").write_text(json.dumps({"validator": server.tag, "total": len(body)}))

    fetch([download], tmp_path, QUICK, say=[].append)

    assert server.ranges == ["bytes=500-"]
    assert (tmp_path / "a.zip").read_bytes() == body


@pytest.mark.parametrize("change", ["other tag", "no ranges"])
def test_a_download_begins_anew_where_the_file_changed_or_the_server_cannot_go_on(change, server, tmp_path):
    body = small_zip()
    download = download_of(server, body)
    (tmp_path / ".a.zip.part").write_bytes(b"old content")
    (tmp_path / ".a.zip.part.json").write_text(json.dumps({"validator": '"zero"', "total": 9000}))
    server.with_ranges = change != "no ranges"

    fetch([download], tmp_path, QUICK, say=[].append)

    assert (tmp_path / "a.zip").read_bytes() == body


def test_a_server_that_only_breaks_off_is_given_up_with_what_came_kept(server, tmp_path):
    download = download_of(server, small_zip())
    (tmp_path / ".a.zip.part").write_bytes(b"PK")
    server.http.shutdown()
    server.http.server_close()

    result = fetch([download], tmp_path, QUICK, say=[].append)

    assert "the same command goes on later" in result.failed[download]
    assert (tmp_path / ".a.zip.part").read_bytes() == b"PK"


@pytest.mark.parametrize(
    ("body", "more", "reason"),
    [
        (BODY, {"size": Fact(99)}, "has 10240 bytes, the official one 99"),
        (BODY, {"digests": (Fact("md5:00"),)}, "has the digest md5:"),
        (b"<!DOCTYPE html><html>Sign in</html>", {"size": None, "digests": ()}, "is a web page"),
    ],
)
def test_a_wrong_file_is_refused_at_once_and_nothing_of_it_stays(body, more, reason, server, tmp_path):
    download = download_of(server, body, **more)

    result = fetch([download], tmp_path, QUICK, say=[].append)

    assert reason in result.failed[download]
    assert len(server.ranges) == 1
    assert list(tmp_path.iterdir()) == []


def test_another_edition_is_taken_where_the_user_says_so(server, tmp_path):
    download = download_of(server, BODY, size=Fact(99), digests=(Fact("md5:00"),))

    result = fetch([download], tmp_path, replace(QUICK, unchecked=True), say=[].append)

    assert result.done == [download]


def test_a_missing_file_and_one_that_only_a_person_gets_are_told_with_the_page(server, tmp_path):
    gone = replace(download_of(server, BODY), url=Fact(f"{server.url}/gone.zip"))
    by_hand = replace(gone, file="b.zip", url=None)

    result = fetch([gone, by_hand], tmp_path, QUICK, say=[].append)

    assert "answers 404" in result.failed[gone] and "https://example.org" in result.failed[gone]
    assert result.manual == [by_hand]


def test_a_mirror_has_all_files_by_their_names_and_several_come_at_once(server, tmp_path, capsys):
    server.files = {"pub/train2014.zip": small_zip(), "pub/refcoco%2B.zip": small_zip()}

    words = ("--sets", "refcoco+", "--mirror", f"{server.url}/pub/", "--unchecked", "--jobs", "2", "--rate", "1M")
    assert run("fetch", "--dataset_dir", tmp_path, *words) == 0

    assert sorted(path.name for path in (tmp_path / "downloads").iterdir()) == ["refcoco+.zip", "train2014.zip"]
    assert "fetched  refcoco+.zip" in capsys.readouterr().out


def test_a_rate_limits_all_downloads_together(server, tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    downloads = [download_of(server, BODY, file, digests=()) for file in ("a.json", "b.json", "c.json")]

    fetch(downloads, tmp_path, replace(QUICK, rate=10240.0, jobs=1), say=[].append)

    assert 1.5 < max(waited) <= 3.0  # each file is a second's worth: the third has to wait for those before it, too


def test_copies_of_another_size_are_refused_unless_the_user_says_so(tmp_path, capsys):
    (tmp_path / "mine/deep").mkdir(parents=True)
    zip_of(tmp_path / "mine/deep/train2014.zip", {"train2014/a.jpg": b"x"})
    words = ("fetch", "--dataset_dir", tmp_path / "data", "--sets", "refcoco", "--from", tmp_path / "mine")

    assert run(*words) == 1
    assert "the official file 13510573713" in capsys.readouterr().out
    assert run(*words, "--unchecked", "--copy") == 1  # refcoco.zip is not there

    assert not (tmp_path / "data/downloads/train2014.zip").is_symlink()


# --- unpacking --------------------------------------------------------------------------------------------------------


def tar_of(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as archive:
        for member in members:
            member.size = 1 if member.isreg() else 0
            archive.addfile(member, io.BytesIO(b"x"))
    return path


def tar_member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def zip_with_link(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("train2014/a.jpg")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    return path


HOSTILE = {
    "a zip that climbs out": ("a.zip", partial(zip_of, files={"train2014/../../../evil.jpg": b"x"})),
    "an absolute zip": ("a.zip", partial(zip_of, files={"/train2014/evil.jpg": b"x"})),
    "a zip with backslashes": ("a.zip", partial(zip_of, files={"..\\train2014\\evil.jpg": b"x"})),
    "a link in a zip": ("a.zip", zip_with_link),
    "a tar that climbs out": ("a.tar", lambda path: tar_of(path, tar_member("../train2014/evil.jpg"))),
    "a link in a tar": ("a.tar", lambda path: tar_of(path, tar_member("train2014/a.jpg", tarfile.SYMTYPE, "b.jpg"))),
    "a hard link": ("a.tar", lambda path: tar_of(path, tar_member("train2014/a.jpg", tarfile.LNKTYPE, "b"))),
    "a device": ("a.tar", lambda path: tar_of(path, tar_member("train2014/a.jpg", tarfile.CHRTYPE))),
    "a damaged zip": ("a.zip", lambda path: path.write_bytes(b"PK\x03\x04 and then nothing")),
    "a damaged tar": ("a.tar", lambda path: path.write_bytes(b"nothing of a tar")),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_and_damaged_archives_write_nothing(kind, tmp_path):
    root, folder = tmp_path / "deep/root", tmp_path / "folder"
    root.mkdir(parents=True)
    folder.mkdir()
    name, make = HOSTILE[kind]
    make(folder / name)
    download = replace(TRAIN2014, file=name)
    source = Source(download, root / "images", "train2014/*.jpg")

    with pytest.raises(UserError, match=r"not official|official archives have none|damaged"):
        unpacking.unpack(download, [source], root, folder)

    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.parent != folder]


def test_an_archive_with_nothing_of_a_set_is_told(tmp_path, capsys):
    (tmp_path / "downloads").mkdir()
    zip_of(tmp_path / "downloads/train2014.zip", {"holiday/a.jpg": b"x"})

    assert run("unpack", "--dataset_dir", tmp_path, "--sets", "refcoco") == 1

    assert "of train2014 of COCO: expected train2014/*.jpg" in capsys.readouterr().out


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
