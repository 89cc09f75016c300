"""Large JSON files are read a few items at a time, and hold what they hold when they are read whole."""

import json
import random

import pytest

from groundscore import json_items, reading
from groundscore.errors import UserError
from groundscore.json_items import Items, read_items, read_members
from groundscore.reading import read_json

ODD = (
    1,
    -0.5,
    1e22,
    1e-9,
    -0.0,
    2**70,
    2**64 - 1,
    True,
    None,
    [],
    {},
    "x",
    '},{"id":1',
    '\\"id":',
    ":",
    '","',
    "é\u2028",
)


def odd_value(rng: random.Random, depth: int):
    kind = rng.random()
    if depth == 0 or kind < 0.4:
        return rng.choice(ODD)
    if kind < 0.6:
        return [odd_value(rng, depth - 1) for _ in range(rng.randint(0, 4))]
    return {rng.choice(["id", "a", "seg ment", 'x"y']): odd_value(rng, depth - 1) for _ in range(rng.randint(0, 4))}


def odd_items(rng: random.Random) -> list:
    if rng.random() < 0.7:
        return [{"id": number, "a": odd_value(rng, 2)} for number in range(rng.randint(0, 30))]
    return [odd_value(rng, 3) for _ in range(rng.randint(0, 30))]


def damaged(rng: random.Random, text: bytes) -> bytes:
    content, at = bytearray(text), rng.randrange(len(text))
    content[at : at + rng.randint(0, 1)] = rng.choice([b",", b"]", b"}", b'"', b" ", b"0", b"\xc3", b'"id":2,', b""])
    return bytes(content)


def outcome(read):
    try:
        return repr(read())  # tells 1 from 1.0 and True
    except UserError as error:
        return str(error)


@pytest.mark.parametrize("without", [False, True], ids=["orjson", "standard library"])
def test_files_read_by_items_hold_what_they_hold_read_whole(tmp_path, monkeypatch, without):
    monkeypatch.setattr(json_items, "CHUNK", 100)
    if without:
        monkeypatch.setattr(reading, "orjson", None)
    rng, path = random.Random(1), tmp_path / "a.json"
    for _ in range(150):
        form = rng.choice([{}, {"separators": (",", ":")}, {"indent": 1}, {"ensure_ascii": False}])
        value = odd_items(rng)
        members = {name: rng.choice([value, rng.choice(ODD)]) for name in rng.sample(["info", "images", 'a"b'], 2)}
        for content, kind in ((value, list), (members, dict)):
            text = json.dumps(content, **form).encode()
            path.write_bytes(damaged(rng, text) if rng.random() < 0.4 else text)

            def by_items(kind=kind):
                if kind is list:
                    return list(read_items(path))
                return {
                    key: list(each) if isinstance(each, Items) else each for key, each in read_members(path).items()
                }

            assert outcome(by_items) == outcome(lambda kind=kind: read_json(path, kind))


@pytest.mark.parametrize(
    "text",
    [
        '{"images": [{"id": 1, "id": 2}]}',
        '{"images": [], "images": [1]}',
        '{"images": [1,,2]}',
        '{"images": [1, 2,]}',
        '{"images": [{"id": NaN}]}',
        '{"images": [1]} 2',
        '{"images": [1',
        "[1]",
        '\ufeff{"images": [18446744073709551616]}',
    ],
)
def test_what_is_wrong_is_said_as_of_a_file_that_is_read_whole(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")

    def by_items():
        return {key: list(each) for key, each in read_members(path).items()}

    assert outcome(by_items) == outcome(lambda: read_json(path, dict))


def test_never_more_than_a_chunk_of_a_list_is_decoded_at_once(tmp_path, monkeypatch):
    sizes = []
    decode = json_items.decode_strictly
    monkeypatch.setattr(json_items, "decode_strictly", lambda text: sizes.append(len(text)) or decode(text))
    monkeypatch.setattr(json_items, "read_json", None)
    annotations = [{"id": number, "parts": [{"name": 1}, {"name": 2}], "of": '},{"id"'} for number in range(20_000)]
    (tmp_path / "a.json").write_text(json.dumps({"info": {}, "annotations": annotations, "images": []}))

    content = read_members(tmp_path / "a.json")

    assert list(content["annotations"]) == annotations
    assert max(sizes) <= json_items.CHUNK + 2
    assert sum(sizes) < 3 * (tmp_path / "a.json").stat().st_size  # to find the items, and to read them


def test_a_file_that_changes_between_two_passes_is_named(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"images": [1, 2]}')
    images = read_members(path)["images"]
    path.write_text('{"images": [1, 2, 3]}')

    with pytest.raises(UserError, match=r"a\.json has changed while it was read"):
        list(images)
