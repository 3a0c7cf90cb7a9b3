import copy
import functools
import io
import math
import pickle
import sys

import pytest
import torch
import torchvision
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, PolynomialLR, StepLR

from tasks.base.optim import adaptive_clipping, cosine, fused, parameter_groups, place_steps, poly, staircase

stairs = functools.partial(staircase, periods=4, gamma=0.5)

TOTAL = 20


def optimizer_of(*rates):
    return torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates])


def rates(scheduler, steps):
    listed = []  # (steps, groups): what the next `steps` optimizer steps train with
    for _ in range(steps):
        listed.append([group["lr"] for group in scheduler.optimizer.param_groups])
        scheduler.optimizer.step()
        scheduler.step()
    return torch.tensor(listed, dtype=torch.float64)


def test_groups_of_mobilenet_v3():
    model = torchvision.models.mobilenet_v3_large()
    decayed, free = parameter_groups(model)
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert sum(p.numel() for p in decayed["params"]) == sum(layer.weight.numel() for layer in layers)
    assert [id(p) for p in decayed["params"]] == [id(layer.weight) for layer in layers]
    assert [id(p) for p in free["params"]] == [id(p) for p in model.parameters() if p.ndim == 1]
    assert "weight_decay" not in decayed
    assert free["weight_decay"] == 0.0


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop])
def test_the_optimizer_decays_the_first_group_alone(kind):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    optimizer = functools.partial(kind, lr=0.1, weight_decay=0.05)(parameter_groups(model))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]
    before = copy.deepcopy(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    changed = [not torch.equal(*pair) for pair in zip(model.parameters(), before.parameters(), strict=True)]
    assert changed == [True, False, False, False]


def test_weight_decay_of_its_own_and_an_empty_group():
    groups = parameter_groups(nn.BatchNorm2d(3), weight_decay=0.3)
    assert groups[0] == {"params": [], "weight_decay": 0.3}
    assert [len(group["params"]) for group in torch.optim.AdamW(groups, lr=0.1).param_groups] == [0, 2]


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale, self.gains = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(3))
        self.attention_bias, self.table = nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(2, 3))


def test_norms_of_several_dimensions_scalars_and_biases_are_free():
    norms = [nn.LayerNorm((2, 3)), nn.RMSNorm((2, 3)), nn.GroupNorm(1, 2), nn.InstanceNorm2d(2, affine=True)]
    decayed, free = parameter_groups(*norms, nn.SyncBatchNorm(2), odd := Odd())
    assert [id(p) for p in decayed["params"]] == [id(odd.table)]
    assert len(free["params"]) == 2 + 1 + 2 + 2 + 2 + 3


def test_spared_parameters_are_free():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))
    decayed, free = parameter_groups(model, spared=[model[0].weight])
    assert [id(p) for p in decayed["params"]] == [id(model[1].weight)]
    assert [p.shape for p in free["params"]] == [(2, 2), (2,), (3,)]


def test_frozen_left_out_shared_once_order_kept():
    first, second, frozen = nn.Linear(2, 2), nn.Linear(2, 2, bias=False), nn.Linear(2, 2).requires_grad_(False)
    second.weight = first.weight
    decayed, free = parameter_groups(nn.Sequential(frozen, first), second, first)
    assert [id(p) for p in decayed["params"]] == [id(first.weight)]
    assert [id(p) for p in free["params"]] == [id(first.bias)]
    odd, norm = Odd(), nn.LayerNorm((2, 3), bias=False)
    norm.weight = odd.table  # exempt in one place, so exempt
    assert not parameter_groups(odd, norm)[0]["params"] and not parameter_groups(norm, odd)[0]["params"]
    with pytest.raises(ValueError, match="nothing to train"):
        parameter_groups(frozen)


@pytest.mark.parametrize("power", [0.9, 1.0, 2.0])
def test_poly_equals_torch(power):
    ours = rates(poly(optimizer_of(0.4, 0.01), TOTAL, power=power), TOTAL + 5)
    torch.testing.assert_close(ours, rates(PolynomialLR(optimizer_of(0.4, 0.01), TOTAL, power), TOTAL + 5))
    assert (ours[-5:] == 0).all()


def test_cosine_equals_torch():
    ours = rates(cosine(optimizer_of(0.4), TOTAL, minimum=0.05), TOTAL + 5)
    theirs = rates(CosineAnnealingLR(optimizer_of(0.4), TOTAL, eta_min=0.02), TOTAL + 1)
    torch.testing.assert_close(ours[: TOTAL + 1], theirs)
    torch.testing.assert_close(ours[TOTAL:], theirs[-1:].expand(5, 1))  # and not up again


@pytest.mark.parametrize("schedule", [poly, cosine])
@pytest.mark.parametrize(("warmup", "steps"), [(5, 5), (5.0, 5), (0.25, 5), (1, 1), (0.01, 0), (19, 19)])
def test_warmup(schedule, warmup, steps):
    listed = rates(schedule(optimizer_of(2.0), TOTAL, warmup=warmup, warmup_factor=0.1, minimum=0.01), TOTAL + 3)[:, 0]
    ramp = torch.tensor([2 * (0.1 + 0.9 * step / steps) for step in range(steps)], dtype=torch.float64)
    torch.testing.assert_close(listed[:steps], ramp)
    assert listed[steps] == 2.0  # the joint: the line's end is the decay's beginning
    tail = schedule(optimizer_of(2.0), TOTAL - steps, minimum=0.01)
    torch.testing.assert_close(listed[steps:TOTAL], rates(tail, TOTAL - steps)[:, 0])
    torch.testing.assert_close(listed[TOTAL:], torch.full((3,), 0.02, dtype=torch.float64))


@pytest.mark.parametrize(("total", "periods"), [(20, 5), (600, 300), (900, 300), (49, 7), (1000, 1)])
def test_staircase_equals_torch(total, periods):
    ours = rates(staircase(optimizer_of(0.4), total, periods=periods, gamma=0.973), total + 1)
    theirs = rates(StepLR(optimizer_of(0.4), total // periods, gamma=0.973), total + 1)
    torch.testing.assert_close(ours, theirs)


def test_staircase_begins_after_the_warmup():
    listed = rates(stairs(optimizer_of(1.0), TOTAL, warmup=4, warmup_factor=0.0), TOTAL)[:, 0]
    assert listed.tolist() == [0.0, 0.25, 0.5, 0.75] + [1.0] * 4 + [0.5] * 4 + [0.25] * 4 + [0.125] * 4
    for setting, value in (("periods", 0), ("periods", 2.5), ("gamma", 0.0), ("gamma", 1.1), ("warmup", TOTAL)):
        with pytest.raises(ValueError, match=setting if setting != "warmup" else "does not fit"):
            stairs(optimizer_of(1.0), TOTAL, **{setting: value})


def test_adaptive_clipping_bounds_each_unit_by_its_weights():
    """Brock et al.: the gradient of a unit has at most `factor` times the norm of its weights."""
    layer, untouched = nn.Conv2d(3, 4, 3), nn.Linear(2, 2)
    layer.weight.grad = torch.randn_like(layer.weight) * torch.tensor([100.0, 1e-6, 100.0, 1e-6])[:, None, None, None]
    before = layer.weight.grad.clone()
    adaptive_clipping(0.02)([*layer.parameters(), *untouched.parameters()])
    norms = [tensor.flatten(1).norm(dim=1) for tensor in (layer.weight.grad, layer.weight, before)]
    torch.testing.assert_close(norms[0], torch.minimum(norms[2], 0.02 * norms[1].detach()))
    assert untouched.weight.grad is None
    with pytest.raises(ValueError, match=r"task\.adaptive_clip=0: expected a number above 0"):
        adaptive_clipping(0)


def test_adaptive_clipping_without_timm_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"task\.adaptive_clip needs timm"):
        adaptive_clipping(0.02)


def test_the_last_step_trains_just_above_the_minimum():
    assert rates(poly(optimizer_of(1.0), TOTAL), TOTAL)[-1].item() == pytest.approx((1 / TOTAL) ** 0.9)
    last = (1 - math.cos(math.pi / TOTAL)) / 2
    assert rates(cosine(optimizer_of(1.0), TOTAL), TOTAL)[-1].item() == pytest.approx(last)
    assert rates(poly(optimizer_of(1.0), 1), 2)[:, 0].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("schedule", [poly, cosine, stairs])
def test_resume_continues_the_same_rates(schedule):
    def fresh():
        floor = {} if schedule is stairs else {"minimum": 0.01}
        return schedule(optimizer_of(0.4, 0.1), TOTAL, warmup=0.3, **floor)

    whole, first = rates(fresh(), TOTAL), fresh()
    for steps in (3, 8):  # inside the warm-up, then after it
        rates(first, steps)
        file = io.BytesIO()
        torch.save({"optimizer": first.optimizer.state_dict(), "scheduler": first.state_dict()}, file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        resumed = fresh()
        resumed.optimizer.load_state_dict(saved["optimizer"])
        resumed.load_state_dict(saved["scheduler"])
        rest = whole[first.last_epoch :]
        assert torch.equal(rates(resumed, len(rest)), rest)


def test_a_resumed_run_can_be_made_longer():
    """The state holds the step reached, not the length: LambdaLR would bring an earlier length back."""
    ended, longer = poly(optimizer_of(0.4), TOTAL), poly(optimizer_of(0.4), 2 * TOTAL)
    for _ in range(TOTAL):
        ended.optimizer.step()
        ended.step()
    longer.load_state_dict(ended.state_dict())
    longer.optimizer.step()
    longer.step()
    assert longer.get_last_lr()[0] == pytest.approx(0.4 * (1 - (TOTAL + 1) / (2 * TOTAL)) ** 0.9)


def test_the_schedule_pickles():
    scheduler = poly(optimizer_of(0.4), TOTAL, warmup=0.1)
    assert isinstance(scheduler, LRScheduler)
    assert pickle.loads(pickle.dumps(scheduler.lr_lambdas[0]))(7) == scheduler.lr_lambdas[0](7)


@pytest.mark.parametrize("schedule", [poly, cosine])
@pytest.mark.parametrize(
    ("setting", "values", "message"),
    [
        ("total_steps", [math.inf, -1], "set trainer.max_epochs or trainer.max_steps"),
        ("total_steps", [0, -2, 10.5, math.nan], "total_steps must be"),
        ("warmup", [-0.1, 1.5, math.inf, math.nan], "warmup is a share"),
        ("warmup", [TOTAL, TOTAL + 1, 0.99], f"steps does not fit into a run of {TOTAL}"),
        ("warmup_factor", [-0.1, 1.1, math.nan], "warmup_factor"),
        ("minimum", [-0.1, 2, math.nan], "minimum"),
    ],
)
def test_settings_are_checked(schedule, setting, values, message):
    for value in values:
        with pytest.raises(ValueError, match=message):
            schedule(optimizer_of(0.1), **{"total_steps": TOTAL, setting: value})


def test_power_is_checked():
    for power in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="power"):
            poly(optimizer_of(0.1), TOTAL, power=power)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_a_fused_optimizer_steps_as_a_plain_one_also_below_a_gradient_scaler(kind):
    make, weights = functools.partial(kind, lr=0.1, weight_decay=0.01), []
    for maker in (make, fused(make)):
        weight = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
        optimizer, scaler = maker([{"params": [weight]}]), torch.amp.GradScaler("cpu", init_scale=64.0)
        for _ in range(3):
            optimizer.zero_grad()
            scaler.scale(weight.square().sum()).backward()
            scaler.unscale_(optimizer)
            torch.testing.assert_close(weight.grad, 2 * weight.detach())
            nn.utils.clip_grad_norm_([weight], 1.0)
            scaler.step(optimizer)
            scaler.update()
        weights.append(weight.detach())
        assert bool(optimizer.param_groups[0]["fused"]) == (maker is not make)
        assert not getattr(optimizer, "_step_supports_amp_scaling", False), "else Lightning clips what is scaled"
    torch.testing.assert_close(*weights)


def test_a_choice_stays_and_what_cannot_be_fused_too():
    for make in (functools.partial(torch.optim.AdamW, foreach=True), functools.partial(torch.optim.RMSprop, lr=0.1)):
        assert fused(make) is make


@pytest.mark.parametrize(("chosen", "device"), [(True, "meta"), (False, "cpu")])
def test_steps_are_counted_where_the_optimizer_wants_them(chosen, device):
    """Those of a run that began on another device, or not fused."""
    weight = nn.Parameter(torch.ones(2, device="meta"))
    optimizer = torch.optim.AdamW([weight])
    optimizer.param_groups[0]["fused"] = chosen
    optimizer.state[weight] = {"step": torch.tensor(3.0), "exp_avg": torch.ones(2)}
    place_steps(optimizer)
    assert optimizer.state[weight]["step"].device.type == device
