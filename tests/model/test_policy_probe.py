"""A planted case: one layer alone shows where the target is, and the policy must find it from a uniform start."""

from types import SimpleNamespace

import pytest
import torch

from dataloaders.batching.batch import Geometry
from model.states import TargetStates
from tests.tiny import tiny_model

TARGETS, GRID, SIDE = 8, 4, 24
LAYER_NORMS = (0.5, 1.0, 2.0, 1.0)  # hidden states of a real LLM differ in scale, and so does what the gate sees
UPDATES = 200
DECIDED = 0.95  # probability of a layer
LEARNING_RATES = {"reference": 0.02, "normalized": 0.1}


class Probe:
    """Targets of an image whose image tokens resemble `[SEG]` inside the true mask, at the planted layer only."""

    def __init__(self, model, planted: int, seed: int):
        self.planted, self.width = planted, model.config.text_config.hidden_size
        self.generator = torch.Generator().manual_seed(seed)
        self.typical = self._noise(len(LAYER_NORMS), self.width)

    def _noise(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.generator)

    def draw(self) -> tuple[TargetStates, SimpleNamespace]:
        """A row for each target, with the image tokens first and the position that predicts `[SEG]` after them."""
        cells = torch.zeros(TARGETS, GRID, GRID, dtype=torch.bool)
        for target in range(TARGETS):
            top, left = torch.randint(0, GRID - 1, (2,), generator=self.generator).tolist()
            cells[target, top : top + 2, left : left + 2] = True
        tokens = GRID * GRID
        unrolled = []
        for layer, norm in enumerate(LAYER_NORMS):
            states = self._noise(TARGETS, tokens + 1, self.width) / 2
            states[:, -1] += self.typical[layer]
            if layer == self.planted:
                states[:, :tokens] += cells.flatten(1).unsqueeze(2) * self.typical[layer]
            unrolled.append(norm * states)
        rows = torch.arange(TARGETS).unsqueeze(1) * (tokens + 1)
        states = TargetStates(
            unrolled=tuple(unrolled),
            seg_positions=rows + tokens,
            cell_positions=rows + torch.arange(tokens),
            image=torch.zeros(TARGETS, dtype=torch.int64),
            images=None,
            groups=[0],
            counts=[TARGETS],
            geometries=[Geometry((SIDE, SIDE), (0, 0, SIDE, SIDE), False, (GRID, GRID), GRID * GRID)],
            sizes=[(SIDE, SIDE)],
        )
        size = SIDE // GRID
        masks = cells.repeat_interleave(size, 1).repeat_interleave(size, 2)
        return states, SimpleNamespace(masks=[masks], ignore=[None])


def learn(gate: str, estimator: str, planted: int, seed: int) -> torch.Tensor:
    """Mean layer probabilities [L+1] after training the gate alone, until it is decided or `UPDATES` are over."""
    model, _ = tiny_model(gate=gate, estimator=estimator, mask_prompt=False)
    torch.nn.init.zeros_(model.policy.gate)
    torch.manual_seed(seed)
    probe = Probe(model, planted, seed)
    optimizer = torch.optim.Adam([model.policy.gate], lr=LEARNING_RATES[gate])
    for _ in range(UPDATES):
        states, batch = probe.draw()
        prompt = model.system.prompt(model, states, batch, "sample")
        own = model.system.own_losses(model, prompt, states, batch, True)
        optimizer.zero_grad()
        own.policy.backward()
        optimizer.step()
        found = model.policy(states.seg[:, 0]).exp().mean(dim=0).detach()
        if found.max() > DECIDED:
            break
    return found


@pytest.mark.parametrize("gate", ["reference", "normalized"])
@pytest.mark.parametrize("estimator, planted", [("leave_one_out", 0), ("expected", 2), ("sample", 3)])
def test_the_policy_finds_the_informative_layer_with_every_seed(gate, estimator, planted):
    found = torch.stack([learn(gate, estimator, planted, seed) for seed in range(5)])
    assert (found.argmax(dim=1) == planted).all(), found
    assert (found[:, planted] > 0.8).all(), found
