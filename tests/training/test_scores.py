"""The scores of a run, and the best of them."""

from utils.training.scores import Scores


def test_the_best_is_chosen_by_ciou_and_ties_by_giou(tmp_path):
    scores = Scores(tmp_path)
    assert scores.add(1, 0, {"val": {"gIoU": 0.9, "cIoU": 0.5}}, "val")
    assert not scores.add(2, 0, {"val": {"gIoU": 0.95, "cIoU": 0.4}}, "val")
    assert not scores.add(3, 0, {"val": {"gIoU": 0.9, "cIoU": 0.5}}, "val")
    assert scores.add(4, 1, {"val": {"gIoU": 0.91, "cIoU": 0.5}}, "val")
    scores.save()
    again = Scores(tmp_path)
    assert again.content["best"]["step"] == 4
    again.go_back_to(2)
    assert again.has(2) and not again.has(4)
    assert again.content["best"]["step"] == 4
    again.go_back_to(0)
    assert again.content["best"] is None
