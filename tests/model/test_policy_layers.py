"""Layers in a real (tiny) model: what is rewarded, what a mixture is, and masks of all layers in one pass."""

from types import SimpleNamespace

import pytest
import torch

from dataloaders.batching.collate import Collator
from evaluation.layer_analysis import layer_analysis, layer_rewards
from groundscore.errors import UserError
from model import losses as all_losses
from tests.tiny import text_only_sample, tiny_model, tiny_samples
from training.arguments import parse_arguments


def model_and_batch(**settings):
    model, processor = tiny_model(pad_train_clip_images=True, **settings)
    return model.eval(), Collator(processor)(tiny_samples())


def states_of(model, batch):
    images = model.encode_images(batch)
    return model.target_states(batch, images, model.read(batch, images))


def map_losses(model, states, batch, layer):
    """[S], of one layer's maps."""
    prompt = model.system.prompt(model, states, batch, layer)
    own = model.system.own_losses(model, prompt, states, batch, True)
    return own.mask_bce + own.mask_dice


@pytest.mark.parametrize("estimator", ["sample", "leave_one_out", "expected"])
def test_a_reward_is_minus_the_map_loss_of_its_layer(estimator, monkeypatch):
    model, batch = model_and_batch(estimator=estimator)
    states = states_of(model, batch)
    by_layer = torch.stack([map_losses(model, states, batch, layer) for layer in range(model.config.num_layers)], 1)
    seen = {}
    original = model.policy.loss

    def spy(sample, candidates, rewards, *rest):
        seen.update(sample=sample, candidates=candidates, rewards=rewards)
        return original(sample, candidates, rewards, *rest)

    monkeypatch.setattr(model.policy, "loss", spy)
    torch.manual_seed(0)
    prompt = model.system.prompt(model, states, batch, "sample")
    model.system.own_losses(model, prompt, states, batch, True)
    torch.testing.assert_close(seen["rewards"], -by_layer.gather(1, seen["candidates"]))
    if estimator != "expected":
        assert torch.equal(seen["candidates"][:, 0], prompt.layers), "the layer that prompts SAM is among the scored"


def test_a_layer_is_scored_once_for_the_rewards_of_all_candidates(monkeypatch):
    model, batch = model_and_batch(estimator="leave_one_out", policy_samples=8)
    states = states_of(model, batch)
    prompt = model.system.prompt(model, states, batch, "sample")
    scored, scores = [], model.system._scores
    monkeypatch.setattr(model.system, "_scores", lambda states, layer: scored.append(layer) or scores(states, layer))
    model.system.own_losses(model, prompt, states, batch, True)
    assert scored == list(range(model.config.num_layers))


def test_similarity_loss_on_all_layers_is_their_mean_and_trains_each():
    model, batch = model_and_batch(estimator="expected", map_loss_layers="all")
    chosen, _ = model_and_batch(estimator="expected")
    states = states_of(model, batch)
    leaves = tuple(each.detach().requires_grad_() for each in states.unrolled)
    states.unrolled = leaves
    mean = torch.stack([map_losses(chosen, states, batch, layer) for layer in range(len(leaves))]).mean(dim=0)
    own = map_losses(model, states, batch, "last")
    torch.testing.assert_close(own, mean)
    gradients = torch.autograd.grad(own.sum(), leaves)
    expected = torch.autograd.grad(mean.sum(), leaves)
    for gradient, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, wanted)
        assert gradient.abs().max() > 0


def test_a_mixture_is_the_mean_of_maps_by_probability():
    model, batch = model_and_batch()
    states = states_of(model, batch)
    probabilities = model.policy(states.seg[:, 0]).exp()
    assert probabilities.amax(dim=1).max() < 0.9, "the case must mix"
    mixed = torch.cat([each.flatten(1) for each in model.system.prompt(model, states, batch, "mixture").maps[:1]])
    first = len(mixed)
    wanted = sum(
        probabilities[:first, layer, None] * model.system.prompt(model, states, batch, layer).maps[0].flatten(1)
        for layer in range(model.config.num_layers)
    )
    torch.testing.assert_close(mixed, wanted)


def test_segment_knows_the_mixture_and_refuses_it_where_there_is_no_policy():
    model, batch = model_and_batch()
    assert all(torch.isfinite(one.mask_logits).all() for one in model.segment(batch, "mixture"))
    lisa, _ = tiny_model("LISA")
    with pytest.raises(UserError, match="no policy"):
        lisa.segment(batch, "mixture")


@pytest.mark.parametrize("settings", [{}, {"mode": 2}, {"mode": 1}, {"mask_prompt": False}])
def test_the_analysis_has_the_masks_that_each_layer_gives_alone(settings):
    model, batch = model_and_batch(**settings)
    analysis = layer_analysis(model, batch)
    for layer in range(model.config.num_layers):
        for image, one in enumerate(model.segment(batch, layer)):
            assert torch.equal(analysis.masks[image][:, layer], one.mask_logits > 0)
            torch.testing.assert_close(analysis.maps[image][:, layer], one.similarity_maps)
    targets = len(batch.seg_positions)
    assert analysis.iou.shape == analysis.probabilities.shape == (targets, model.config.num_layers)
    torch.testing.assert_close(analysis.probabilities.sum(dim=1), torch.ones(targets))
    ignored = batch.ignore[1]
    truth, masks = batch.masks[1][0].bool() & ~ignored, analysis.masks[1][0] & ~ignored
    wanted = [(mask & truth).sum() / (mask | truth).sum() for mask in masks]
    torch.testing.assert_close(analysis.iou[-1], torch.stack(wanted))


@pytest.mark.parametrize("settings", [{}, {"map_loss": False}, {"mask_prompt": False}])
def test_the_analysis_has_the_mask_loss_that_training_has_with_each_layer(settings):
    model, batch = model_and_batch(**settings)
    analysis = layer_analysis(model, batch)
    for layer in range(model.config.num_layers):
        trained = model(batch, layer_choice=torch.full((len(batch.seg_positions),), layer))
        torch.testing.assert_close(analysis.loss[:, layer].mean(), trained.losses["mask_loss"])


def test_systems_without_a_choice_have_no_layers_to_compare():
    model, batch = model_and_batch()
    lisa, _ = tiny_model("LISA")
    with pytest.raises(UserError, match="LISA always uses the last layer"):
        layer_analysis(lisa, batch)


def test_the_entropy_weight_goes_straight_from_start_to_end():
    flags = ["--entropy_weight", "0.4", "--entropy_weight_end", "0", "--epochs", "1", "--steps_per_epoch", "5"]
    config = parse_arguments(flags)
    assert [config.entropy_weight_at(step) for step in range(1, 6)] == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0])
    assert parse_arguments(flags[:2]).entropy_weight_at(3) == 0.4


def test_one_reward_per_batch_is_for_the_sampled_layer_alone():
    with pytest.raises(UserError, match="--reward batch needs --estimator sample"):
        parse_arguments(["--reward", "batch", "--estimator", "expected"])


@pytest.mark.parametrize("settings", [{"map_loss": False}, {"map_loss_layers": "all"}])
def test_rewards_of_a_split_do_not_depend_on_whose_maps_are_trained(settings):
    def rewards(**settings):
        model, processor = tiny_model(pad_train_clip_images=True, **settings)
        items = [
            SimpleNamespace(
                image_path=sample.image_path,
                image=sample.image,
                masks=sample.masks,
                target_masks=None,
                ignore=sample.ignore,
                kind="own words",
                expressions=[turns[0].question for turns in sample.conversations],
                answers=[turns[0].answer for turns in sample.conversations],
                dataset="tiny",
            )
            for sample in tiny_samples()
            if all(len(turns) == 1 for turns in sample.conversations)
        ]
        assert items
        return layer_rewards(model.eval(), processor, items, limit=len(items))[1]

    found = rewards(**settings)
    torch.testing.assert_close(found, rewards())
    assert (found.std(dim=1) > 0).all(), "layers differ"


def test_a_batch_without_targets_has_no_policy_statistics():
    model, processor = tiny_model()
    assert "policy/layers" in model(Collator(processor)(tiny_samples())).statistics
    output = model(Collator(processor)([text_only_sample()]))
    assert output.statistics == {} and output.losses["policy_loss"] == 0


def test_the_chosen_layer_s_maps_are_scored_once(monkeypatch):
    """It is one of the 4 layers that are compared, and its losses are there already: the model learns from them."""
    model, processor = tiny_model()
    assert (model.policy.estimator, model.policy.samples) == ("leave_one_out", 4)
    scored, losses = [], all_losses.losses_of_maps
    monkeypatch.setattr(all_losses, "losses_of_maps", lambda *maps: scored.append(1) or losses(*maps))
    model(Collator(processor)(tiny_samples()))
    assert len(scored) == 4


def test_a_layer_that_is_no_rule_is_named_with_those_that_are():
    model, _ = model_and_batch()
    with pytest.raises(UserError, match=r'layer "gready": use last, greedy, mixture, sample or one of 0\.\.3'):
        model.system.layer_rule("gready")
    for layer in (-1, 4, "4"):
        with pytest.raises(UserError, match=rf"layer {layer} is outside 0\.\.3"):
            model.system.layer_rule(layer)


def test_a_rule_of_the_policy_needs_a_policy_that_was_trained():
    model, _ = model_and_batch(mode=1)
    assert model.system.layer_rule(None) == "last" and model.system.layer_rule(2) == 2
    for rule in ("greedy", "sample", "mixture"):
        with pytest.raises(UserError, match=f'layer "{rule}": mode 1 trains no policy'):
            model.system.layer_rule(rule)
