"""The folder of all data sets, as users name it."""

import pytest

from groundscore.data_root import check_data_root
from groundscore.errors import UserError


def test_a_root_whose_data_sets_lie_one_folder_deeper_is_told_where(tmp_path):
    (tmp_path / "miniature" / "reason_seg").mkdir(parents=True)

    check_data_root(tmp_path / "miniature", "--dataset_dir")
    with pytest.raises(UserError, match=f"--dataset_dir {tmp_path}: .* --dataset_dir {tmp_path}/miniature"):
        check_data_root(tmp_path, "--dataset_dir")


def test_a_root_without_any_data_set_is_left_to_those_who_read_it(tmp_path):
    check_data_root(tmp_path, "--data")
    with pytest.raises(UserError, match="no such directory"):
        check_data_root(tmp_path / "nowhere", "--data")
