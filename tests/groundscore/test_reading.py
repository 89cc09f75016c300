"""Files that nobody vouches for are read with limits, and named for what they are."""

import json
import os
import socket

import pytest

from groundscore.errors import UserError
from groundscore.reading import decode_json, parse_json, read_bytes, read_json, read_lines, user_path
from tests.bounded import ROOT, run_bounded


def read(path):
    return read_json(path, missing="write it first")


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": "\xc3\xa9"}')
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf1\r\n\n2")

    assert read(tmp_path / "a.json") == {"a": "é"}
    assert [json.loads(text) for _, text in read_lines(tmp_path / "a.jsonl", missing="")] == [1, 2]


def test_only_a_newline_ends_a_line(tmp_path):
    values = ["a\u2028b", "c\u0085d\x1ce", "f"]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(value, ensure_ascii=False) for value in values) + "\n\n")

    lines = list(read_lines(tmp_path / "a.jsonl", missing=""))

    assert [number for number, _ in lines] == [1, 2, 3]
    assert [json.loads(text) for _, text in lines] == values


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b'{"a": 1', "not valid JSON"),
        (b'{"a": NaN}', "NaN is not a number"),
        (b"[-Infinity]", "-Infinity is not a number"),
        (b'{"a": 1, "b": 2, "a": 3}', "the key 'a' twice"),
        (b"[" * 1_000_000, "nested too deeply"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
        (b"[" + b"9" * 10_000 + b"]", r"10000 digits\); download"),
        ("[]".encode("utf-16"), "is UTF-16 text.*iconv"),
        (b"\xfe\xff" + "[]".encode("utf-16-be"), "is UTF-16 text"),
        ("[]".encode("utf-32"), "is UTF-32 text"),
        (b'{"a": "\xe9"}', "not UTF-8 text.* at 7"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS pointer.*git lfs pull"),
        (b"<!DOCTYPE html>\n<html>", "web page"),
        (b"\n<HTML><body>", "web page"),
        (b"\x1f\x8b\x08\0", "gzip"),
        (b"PK\x03\x04", "ZIP archive"),
        (b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X", "AppleDouble"),
    ],
)
def test_what_is_no_json_is_named(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)

    with pytest.raises(UserError, match=rf"a\.json.*{message}") as caught:
        read(tmp_path / "a.json")
    assert len(str(caught.value)) < 400


def test_our_own_records_may_hold_what_is_no_number():
    assert decode_json('{"loss": Infinity}') == {"loss": float("inf")}
    with pytest.raises(ValueError, match="nested too deeply"):
        decode_json("[" * 1_000_000)


def test_one_value_under_a_key_twice_is_harmless():
    assert parse_json('{"a": [1], "a": [1]}', "here") == {"a": [1]}


def test_what_is_no_file_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path has to be short
    os.mkfifo("fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        kernel = ("/dev/zero", "/proc/self/environ")
        for name in (*kernel, "fifo", "socket", ".", "a\0b", "x" * 300, "absent", "fifo/below"):
            with pytest.raises(UserError):
                read_bytes(tmp_path / name)
            with pytest.raises(UserError):
                list(read_lines(tmp_path / name, missing=""))


def test_sizes_are_limited_until_the_environment_lifts_the_limit(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps("x" * 2**20) + "\n")
    monkeypatch.setenv("UGROUND_MAX_FILE_MB", "1")
    monkeypatch.setenv("UGROUND_MAX_LINE_MB", "1")

    with pytest.raises(UserError, match="UGROUND_MAX_FILE_MB=N"):
        read(path)
    with pytest.raises(UserError, match="line 1 .* UGROUND_MAX_LINE_MB=N"):
        list(read_lines(path, missing=""))
    monkeypatch.setenv("UGROUND_MAX_FILE_MB", "2")
    monkeypatch.setenv("UGROUND_MAX_LINE_MB", "2")
    assert read(path) == "x" * 2**20
    assert len(list(read_lines(path, missing=""))) == 1


def test_a_line_of_a_gigabyte_takes_no_memory(tmp_path):
    with (tmp_path / "a.jsonl").open("wb") as file:
        file.truncate(2**30)  # zeros that take no space on the disk

    message = run_bounded(
        """
        from pathlib import Path
        from groundscore.reading import read_lines
        limit()
        print(refused(lambda: list(read_lines(Path(sys.argv[1]), missing=""))))
        """,
        tmp_path / "a.jsonl",
        megabytes=300,
    )

    assert "line 1 has more than 64 MB" in message


# What is parsed elsewhere is no file: requests and their answers, orders through a pipe, records that this program
# packed itself; attacks damage files that they have just had made, and the reference is given what was exported for it.
OTHERS = {"groundscore/reading.py", "dashboard/gate.py", "utils/log_pump.py", "groundscore/annotations/records.py"}
OTHERS |= {f"inference/service/{name}.py" for name in ("client", "reading")}
OTHERS |= {f"benchmarks/{name}.py" for name in ("versus", "versus_ours", "versus_reference")}
OTHERS |= {f"benchmarks/hostile/{name}.py" for name in ("data_files", "models_and_runs")}


def test_no_other_place_reads_json():
    folders = (
        "groundscore utils dataloaders model checkpoints inference evaluation training miniature dashboard benchmarks"
    )
    files = [path for folder in folders.split() for path in (ROOT / folder).rglob("*.py")] + list(ROOT.glob("*.py"))

    found = {path.relative_to(ROOT).as_posix() for path in files if "json.load" in path.read_text(encoding="utf-8")}

    assert found <= OTHERS


def test_the_home_of_an_unknown_user_is_no_path():
    assert str(user_path("~nobody-of-this-name/x")) == "~nobody-of-this-name/x"
    assert user_path("~/x").is_absolute()
