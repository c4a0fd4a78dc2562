import math
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fireside.train.loop import Average, Run, RunConfig


class Clock:
    """Stands in for the `time` module of the loop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        stand_in = SimpleNamespace(monotonic=lambda: self.now, process_time=lambda: self.now / 2)
        monkeypatch.setattr("fireside.train.loop.time", stand_in)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


@pytest.fixture(autouse=True)
def _same_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def module(value: float) -> nn.BatchNorm1d:
    layer = nn.BatchNorm1d(2)
    nn.init.constant_(layer.weight, value)
    return layer


def test_average_follows_quickly_at_first_and_then_with_its_decay():
    average = Average(module(0.0), decay=0.5)
    expected = 0.0
    for step in range(1, 40):
        average.update(module(1.0))
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay)
        torch.testing.assert_close(average.weights()["weight"], torch.full((2,), expected))
    assert expected > 0.999


def test_average_copies_counters_and_leaves_the_model_alone():
    layer = module(1.0)
    layer.num_batches_tracked += 7
    average = Average(module(0.0))
    average.update(layer)
    weights = average.weights()
    assert weights["num_batches_tracked"] == 7
    weights["weight"] += 1
    assert (average.weights()["weight"] < 1).all()
    assert (layer.weight == 1).all()


def test_average_continues_from_its_state():
    first, second = Average(module(0.0)), Average(module(5.0))
    first.update(module(1.0))
    second.load_state_dict(first.state_dict())
    for average in (first, second):
        average.update(module(2.0))
    torch.testing.assert_close(first.weights(), second.weights())


def test_rate_warms_up_by_steps_and_falls_by_time(clock, tmp_path):
    config = RunConfig(minutes=10, peak_rate=1e-3, final_rate=1e-5, warmup_steps=4, log_every=1)
    run = Run(tmp_path, config)
    rates = []
    for _ in range(4):
        rates.append(run.rate())
        run.log({"loss": 1.0})
    assert rates == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3])
    clock.now += 300
    assert run.progress == pytest.approx(0.5)
    assert run.rate() == pytest.approx((1e-3 + 1e-5) / 2)
    assert run.go_on()
    clock.now += 300
    assert run.rate() == pytest.approx(1e-5)
    assert not run.go_on()


def test_cpu_clock_counts_processor_time(clock, tmp_path):
    run = Run(tmp_path, RunConfig(minutes=1, clock="cpu"))
    clock.now += 60
    assert run.seconds == pytest.approx(30)


def test_groups_scale_their_rate(clock, tmp_path):
    run = Run(tmp_path, RunConfig(warmup_steps=0, peak_rate=1e-3))
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": weights[:1]}, {"params": weights[1:], "rate_scale": 0.1}], lr=1.0)
    run.set_rate(optimizer, scale=2.0)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([2e-3, 2e-4])


def test_log_writes_means_and_forgets_them(clock, tmp_path):
    run = Run(tmp_path, RunConfig(log_every=2))
    wrote = [run.log({"loss": torch.tensor(value)}) for value in (1.0, 3.0, 10.0, 20.0)]
    assert wrote == [False, True, False, True]
    lines = (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines()
    assert "step 2 train: loss=2 " in lines[0]
    assert "step 4 train: loss=15 " in lines[1]


def step(model: nn.Linear, optimizer: torch.optim.Optimizer, average: Average, run: Run) -> None:
    generator = torch.Generator().manual_seed(run.step)
    loss = model(torch.randn(4, 3, generator=generator)).square().mean()
    run.set_rate(optimizer)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average.update(model)
    run.log({"loss": loss.detach()})


def parts(seed: int) -> tuple[nn.Linear, torch.optim.Optimizer, Average]:
    torch.manual_seed(seed)
    model = nn.Linear(3, 1)
    return model, torch.optim.AdamW(model.parameters()), Average(model)


def test_an_interrupted_run_ends_as_one_that_was_not(clock, tmp_path):
    config = RunConfig(minutes=10, save_minutes=1, log_every=1, warmup_steps=3)

    def go(run, model, optimizer, average, steps):
        for _ in range(steps):
            step(model, optimizer, average, run)
            clock.now += 10
            run.save_if_due({"part.safetensors": average.weights}, model=model, optimizer=optimizer, ema=average)

    whole = parts(0)
    go(Run(tmp_path / "whole", config), *whole, steps=12)
    first = parts(0)
    run = Run(tmp_path / "cut", config)
    assert not run.restore(model=first[0], optimizer=first[1], ema=first[2])
    go(run, *first, steps=6)
    assert (tmp_path / "cut" / "checkpoint.pt").exists()
    clock.now += 5000  # the machine was off
    second = parts(1)
    resumed = Run(tmp_path / "cut", config)
    assert resumed.restore(model=second[0], optimizer=second[1], ema=second[2])
    assert (resumed.step, resumed.seconds) == (6, pytest.approx(60))
    go(resumed, *second, steps=6)
    torch.testing.assert_close(second[0].state_dict(), whole[0].state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(second[2].weights(), whole[2].weights(), rtol=0, atol=0)
    files = [load_file(tmp_path / name / "part.safetensors") for name in ("whole", "cut")]
    torch.testing.assert_close(files[0], files[1], rtol=0, atol=0)
    assert not list(tmp_path.rglob("*.tmp"))


def test_saves_when_due_and_at_the_end(clock, tmp_path):
    run = Run(tmp_path, RunConfig(minutes=10, save_minutes=3))
    model = nn.Linear(1, 1)
    assert not run.save_if_due({}, model=model)
    clock.now += 181
    assert run.save_if_due({}, model=model)
    assert not run.save_if_due({}, model=model)
    clock.now += math.ceil(10 * 60 - 181)
    assert run.save_if_due({}, model=model)


def test_a_budget_that_the_preparations_used_up_still_gives_a_step(clock, tmp_path):
    run = Run(tmp_path, RunConfig(minutes=1))
    clock.now += 100
    assert run.go_on()
    run.log({"loss": 1.0})
    assert not run.go_on()


def test_a_checkpoint_never_stands_without_its_weights(clock, tmp_path):
    """A training ended within a save goes on from the checkpoint before, and so writes the weights once more."""
    run = Run(tmp_path, RunConfig())

    def ended():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.save({"part.safetensors": ended}, model=module(1.0))
    assert not list(tmp_path.glob("checkpoint*"))
