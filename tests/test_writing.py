"""Files appear whole or not at all."""

import pytest

from groundscore.writing import write_json, write_text, written_whole


def test_a_file_is_replaced_only_by_a_complete_one(tmp_path):
    path = tmp_path / "scores.json"
    write_json(path, {"a": 1}, sync=True)

    with pytest.raises(ZeroDivisionError), written_whole(path) as beside:
        beside.write_text("half")
        raise ZeroDivisionError

    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_of_the_system_names_the_file(tmp_path):
    with pytest.raises(OSError) as caught:
        write_text(tmp_path / "absent" / "file.txt", "text")
    assert "file.txt" in str(caught.value)
