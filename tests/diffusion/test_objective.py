from __future__ import annotations

import dataclasses

import pytest
import torch

from zero1toa.diffusion.compact import COMPACT_SPEC
from zero1toa.diffusion.schedule import NoiseSchedule
from zero1toa.diffusion.training.clips import jitter
from zero1toa.diffusion.training.data import Budget, Pool, kind_names
from zero1toa.diffusion.training.objective import Batch, Draws, draw, losses
from zero1toa.diffusion.training.optimizer import MasterWeights, rate_at
from zero1toa.diffusion.training.settings import TrainingSettings

TABLES = NoiseSchedule.from_config(COMPACT_SPEC.scheduler).tables("cpu")


def _batch(clips: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return Batch(
        truth=randn(clips, 2, 4, 8, 8),
        degraded=randn(clips, 2, 4, 8, 8),
        maps=torch.zeros(clips, 2, 32, 32, 3, dtype=torch.uint8),
        reference=randn(clips, 4, 8, 8),
        reference_map=torch.zeros(clips, 32, 32, 3, dtype=torch.uint8),
        positions=torch.arange(2),
    )


class _Oracle:
    """Stands where the network does and knows the truth: the v under which both losses must vanish."""

    def __init__(self, batch: Batch, draws: Draws) -> None:
        self.batch, self.draws = batch, draws
        self.seen: dict[str, torch.Tensor] = {}

    def guide(self, maps: torch.Tensor, source: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
        self.seen = {"source": source, "landmarks": shown}
        return torch.ones(*maps.shape[:2], 1, 8, 8)

    def reference(self, latents: torch.Tensor, maps: torch.Tensor) -> None:
        return None

    def __call__(self, noisy, timesteps, positions, guided, contexts, with_reference, given):
        self.seen["noisy"] = noisy
        alpha, sigma = (t[timesteps][:, None, None, None, None] for t in TABLES)
        # With a source the network answers what to add to "the source is right": x0 = source - sigma * output.
        residual = (self.batch.degraded - self.batch.truth) / sigma
        return torch.where(given[:, None, None, None, None] > 0, residual, (alpha * noisy - self.batch.truth) / sigma)


def test_losses_vanish_for_the_exact_answer_and_conditions_are_dropped_as_drawn() -> None:
    batch = _batch()
    draws = Draws(
        timesteps=torch.tensor([999, 300, 60, 500]),
        repair=torch.tensor([True, True, False, False]),
        share=torch.tensor([1.0, 0.4, 0.0, 0.0]),
        landmarks=torch.tensor([1.0, 0.0, 1.0, 1.0]),
        source=torch.tensor([1.0, 1.0, 0.0, 0.0]),
        noise=torch.randn(4, 2, 4, 8, 8, generator=torch.Generator().manual_seed(1)),
    )
    oracle = _Oracle(batch, draws)
    found = losses(oracle, batch, draws, TABLES, 2.0, 0.03, 3, torch.float32)  # type: ignore[arg-type]
    assert float(found.max()) < 1e-6

    noisy, alpha, sigma = oracle.seen["noisy"], TABLES[0], TABLES[1]
    torch.testing.assert_close(noisy[0], draws.noise[0])  # zero terminal SNR: nothing but noise
    mixed = 0.6 * batch.truth[1] + 0.4 * batch.degraded[1]
    torch.testing.assert_close(noisy[1], alpha[300] * mixed + sigma[300] * draws.noise[1])
    torch.testing.assert_close(noisy[2], alpha[60] * batch.truth[2] + sigma[60] * draws.noise[2])
    assert oracle.seen["landmarks"].flatten().tolist() == [1, 0, 1, 1]
    torch.testing.assert_close(oracle.seen["source"][0, :, :4], batch.degraded[0])
    assert float(oracle.seen["source"][0, :, 4].min()) == 1
    assert not oracle.seen["source"][2].any()


def test_losses_weigh_errors_as_written() -> None:
    """A network that answers zero: plain clips lose |v|^2, repaired ones |alpha x - truth|^2 over their own error."""
    batch = _batch(2)
    draws = Draws(
        timesteps=torch.tensor([200, 700]),
        repair=torch.tensor([False, True]),
        share=torch.tensor([0.0, 1.0]),
        landmarks=torch.ones(2),
        source=torch.zeros(2),
        noise=torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(1)),
    )

    class Zero(_Oracle):
        def __call__(self, noisy, *rest):
            return torch.zeros_like(noisy)

    found = losses(Zero(batch, draws), batch, draws, TABLES, 2.0, 0.03, 2, torch.float32)  # type: ignore[arg-type]
    alpha, sigma = (t.double() for t in TABLES)
    velocity = alpha[200] * draws.noise[0].double() - sigma[200] * batch.truth[0].double()
    noisy = alpha[700] * batch.degraded[1].double() + sigma[700] * draws.noise[1].double()
    clean = alpha[700] * noisy - batch.truth[1].double()
    own = (batch.degraded[1].double() - batch.truth[1].double()).square().mean()
    expected = torch.stack([velocity.square().mean(), 2 * 0.2 * clean.square().mean() / (own + 0.03)])
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_draws_have_the_shares_of_the_settings() -> None:
    settings = TrainingSettings()
    drawn = draw(torch.zeros(20_000, 1, 1, 1, 1), settings, 1000, torch.Generator().manual_seed(0))
    assert abs(float(drawn.repair.float().mean()) - 0.7) < 0.02
    assert abs(float((drawn.share[drawn.repair] == 1).float().mean()) - 0.6) < 0.02
    assert not drawn.share[~drawn.repair].any()
    assert (int(drawn.timesteps[drawn.repair].min()), int(drawn.timesteps[drawn.repair].max())) == (60, 999)
    assert (int(drawn.timesteps.min()), int(drawn.timesteps.max())) == (0, 999)
    assert abs(float((drawn.timesteps[drawn.repair] < 60 + 940 / 4).float().mean()) - 0.5) < 0.02
    assert abs(float(drawn.landmarks.mean()) - 0.92) < 0.01
    assert abs(float(drawn.source[drawn.repair].mean()) - 0.85) < 0.02
    assert not drawn.source[~drawn.repair].any()
    again = draw(torch.zeros(20_000, 1, 1, 1, 1), settings, 1000, torch.Generator().manual_seed(0))
    for field in dataclasses.fields(Draws):
        assert torch.equal(getattr(drawn, field.name), getattr(again, field.name))


def test_master_weights_are_adamw_with_clipping_and_average() -> None:
    """Against torch's AdamW and an average kept by hand, over a few steps."""
    torch_linear = torch.nn.Linear(5, 3)
    twin = torch.nn.Linear(5, 3)
    twin.load_state_dict(torch_linear.state_dict())
    weights = MasterWeights(torch_linear, 0.01, 0.1, 0.999, torch.float32)
    groups = [{"params": [twin.weight], "weight_decay": 0.1}, {"params": [twin.bias], "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.99), eps=1e-8)
    average = twin.weight.detach().clone()
    generator = torch.Generator().manual_seed(0)
    for step in range(1, 6):
        x = torch.randn(8, 5, generator=generator)
        for network in (torch_linear, twin):
            network(x).square().sum().backward()
        rate = 0.01 / step
        weights.step(rate)
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        for group in adam.param_groups:
            group["lr"] = rate
        adam.step()
        adam.zero_grad()
        average.lerp_(twin.weight.detach(), 1 - min(0.999, (1 + step) / (10 + step)))
    torch.testing.assert_close(torch_linear.weight, twin.weight)
    copy = torch.nn.Linear(5, 3)
    weights.copy_average(copy)
    torch.testing.assert_close(copy.weight.detach(), average)


def test_small_updates_are_not_lost_in_half_precision() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(network.weight, 1.0)
    weights = MasterWeights(network, 1e-4, 0.0, 0.9, torch.bfloat16)
    for _ in range(100):  # each step is 1e-4, under the spacing of bfloat16 at 1 (0.004)
        network(torch.ones(1, 1, dtype=torch.bfloat16)).sum().backward()
        weights.step(1e-4)
    assert float(weights.master[0]) == pytest.approx(0.99, abs=1e-4)
    assert network.weight.dtype == torch.bfloat16
    assert float(network.weight) < 1


def test_learning_rate_rises_then_falls() -> None:
    assert rate_at(0.0, 1.0, 0.02) < 0.05
    assert rate_at(0.02, 1.0, 0.02) == pytest.approx(1.0)
    assert rate_at(0.51, 1.0, 0.02) == pytest.approx(0.505)
    assert rate_at(1.0, 1.0, 0.02) == pytest.approx(0.01)
    assert rate_at(5.0, 1.0, 0.02) == pytest.approx(0.01)


def test_pool_keeps_the_newest() -> None:
    pool = Pool(5)
    pool.add({"x": torch.arange(4)})
    assert {int(v) for v in pool.draw(torch.Generator().manual_seed(0), 50)["x"]} == {0, 1, 2, 3}
    pool.add({"x": torch.arange(4, 8)})
    assert sorted(pool.tensors["x"].tolist()) == [3, 4, 5, 6, 7]
    assert [len(part["x"]) for part in pool.chunks(2)] == [2, 2, 1]


def test_budget_limits_new_data_by_steps_and_by_time() -> None:
    now = [0.0]
    budget = Budget(3, 0.5, clock=lambda: now[0])
    assert [budget.due() for _ in range(3)] == [False, False, True]
    budget.charge(4.0)
    now[0] = 6.0
    assert [budget.due() for _ in range(4)] == [False] * 4  # 4 s of 6 s is more than half
    now[0] = 9.0
    assert budget.due()


def test_kinds_by_name_or_index() -> None:
    assert kind_names(torch.tensor([0, 3])) == ["front", "turning"]
    assert kind_names(["side", 2]) == ["side", "mouth"]


def test_jittered_landmarks_have_the_errors_asked_for() -> None:
    landmarks = torch.rand(400, 3, 50, 2, generator=torch.Generator().manual_seed(0))
    error = jitter(landmarks, 0.004, torch.Generator().manual_seed(1)) - landmarks
    shift = error.mean((1, 2))
    noise = error - shift[:, None, None]
    # A uniform amount u has E[u^2] = largest^2 / 3.
    assert abs(float(shift.square().mean().sqrt()) / (0.004 / 3**0.5) - 1) < 0.1
    assert abs(float(noise.square().mean().sqrt()) / (0.002 / 3**0.5) - 1) < 0.1
    assert torch.equal(jitter(landmarks, 0.0, torch.Generator().manual_seed(1)), landmarks)
