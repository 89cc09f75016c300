"""The benchmark of the policy's estimators, on a few pictures and draws."""

import pytest

from benchmarks import policy
from evaluation import layer_analysis
from miniature import data


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    out = tmp_path_factory.mktemp("data")
    data.main(["--out", str(out), "--scale", "0.02", "--sets", "refcoco"])
    return out


def test_estimators_are_measured_on_pictures_prepared_as_the_model_takes_them(root, capsys, monkeypatch):
    checked_models, measure = [], layer_analysis.layer_rewards

    def checked(model, processor, *arguments, **options):
        checked_models.append(model)
        assert processor.backbone_images.padded is model.config.pad_train_clip_images is True
        return measure(model, processor, *arguments, **options)

    monkeypatch.setattr(layer_analysis, "layer_rewards", checked)
    policy.main(["--dataset_dir", str(root), "--images", "2", "--draws", "20"])
    assert len(checked_models) == 1
    targets, rewards, best, _, header, _, *rows = capsys.readouterr().out.splitlines()
    number, layers = (int(word) for word in targets.split() if word.isdecimal() and word != "20")
    means = [float(value) for value in rewards.split(": ")[1].split()]
    assert len(means) == layers
    assert means[-1] > means[0] + 0.05, "the last layer of the base shows the targets, the embeddings do not"
    assert sum(int(count) for count in best.split(": ")[1].split()) == number
    deviations = {row.split("|")[1].strip(): float(row.split("|")[5]) for row in rows}
    assert len(deviations) == len(policy.ESTIMATORS)
    assert deviations["expected, all layers"] < 1e-4
    assert deviations["leave_one_out, 8 layers"] < deviations["sample, baseline none, reward per target"]
