"""Branches folded by moments against the plain sum: convolutions of torch, each with a BatchNorm of torch behind it."""

import copy

import pytest
import torch
from torch import Tensor, nn

from backbones.blocks import branched_conv as branches
from backbones.blocks.branched_conv import BranchedConv

BOUND = 1e-10  # relative, in float64


class PlainSum(nn.Module):
    """relu of the sum of branches, written down as the papers draw it, with the parameters of a block."""

    def __init__(self, block: BranchedConv) -> None:
        super().__init__()
        full = [(branch.conv, branch.norm) for branch in block.convs]
        first = full[0][0]
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        for conv, norm in full:
            self._add(conv, norm, conv.stride, conv.padding, conv.dilation)
        if block.scale is not None:
            self._add(block.scale.conv, block.scale.norm, first.stride, 0, 1)
        if block.skip is not None:
            self.norms.append(copy.deepcopy(block.skip))

    def _add(self, conv, norm, stride, padding, dilation) -> None:
        own = nn.Conv2d(
            conv.in_channels, conv.out_channels, conv.kernel_size, stride, padding, dilation, conv.groups, bias=False
        )
        own.weight = nn.Parameter(conv.weight.detach().clone())
        self.convs.append(own)
        self.norms.append(copy.deepcopy(norm))

    def forward(self, x: Tensor) -> Tensor:
        parts = [norm(conv(x)) for conv, norm in zip(self.convs, self.norms, strict=False)]
        if len(self.norms) > len(self.convs):
            parts.append(self.norms[-1](x))
        return torch.relu(torch.stack(parts).sum(0))


def make_block(*shape: int, dtype: torch.dtype = torch.float64, **options) -> BranchedConv:
    """A block whose norms differ in all that they have: affine map, statistics, counter, eps and momentum."""
    torch.manual_seed(3)
    block = BranchedConv(*shape, **options)
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
    for at, norm in enumerate(norms):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
        nn.init.uniform_(norm.running_mean, -1, 1)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        norm.num_batches_tracked += 3 + at
        norm.eps, norm.momentum = 10.0 ** -(1 + at % 5), (0.3, None, 0.01, 1.0)[at % 4]
    return block.train().to(dtype)


def tensors_of(module: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients of the kernels and norms, and what the norms have gathered, in the order of the branches."""
    if isinstance(module, BranchedConv):
        parts = [*module.convs, *([module.scale] if module.scale is not None else [])]
        kernels, norms = [part.conv.weight for part in parts], [part.norm for part in parts]
        norms += [module.skip] if module.skip is not None else []
    else:
        kernels, norms = [conv.weight for conv in module.convs], list(module.norms)
    parameters = [*kernels, *(p for norm in norms for p in (norm.weight, norm.bias))]
    buffers = [b for norm in norms for b in (norm.running_mean, norm.running_var, norm.num_batches_tracked)]
    return [p.grad for p in parameters], buffers


def assert_equal(block: nn.Module, plain: PlainSum, images: list[Tensor], bound: float = BOUND) -> None:
    """A few steps of both give the same outputs, gradients of inputs and parameters, statistics and counters."""
    for x in images:
        results = []
        for network in (block, plain):
            network.zero_grad()
            own = x.clone().requires_grad_()
            out = network(own)
            weights = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).sin().view(out.shape)
            (out * weights + out.square()).sum().backward()
            results.append([out, own.grad, *(tensor for kind in tensors_of(network) for tensor in kind)])
        for actual, expected in zip(*results, strict=True):
            assert actual.shape == expected.shape
            scale = expected.abs().max().clamp_min(1e-3)
            assert (actual - expected).abs().max() <= bound * scale


def noise(*shape: int, dtype: torch.dtype = torch.float64, steps: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [1.5 + 2 * torch.randn(shape, dtype=dtype, generator=generator) for _ in range(steps)]


@pytest.fixture
def folded(monkeypatch) -> list:
    """One entry for each time that moments are taken."""
    calls = []
    take = branches.moments
    monkeypatch.setattr(branches, "moments", lambda *args: calls.append(args) or take(*args))
    return calls


# what is folded: (in, out, kernel, stride, dilation, groups), options, (N, H, W)
FOLDED = {
    "depthwise": ((6, 6, 3, 1, 1, 6), {"skip": True}, (2, 9, 8)),
    "depthwise, odd": ((6, 6, 3, 1, 1, 6), {"skip": True}, (3, 7, 13)),
    "depthwise, one image": ((4, 4, 3, 1, 1, 4), {"skip": True}, (1, 5, 5)),
    "depthwise, no skip": ((4, 4, 3, 1, 1, 4), {}, (2, 5, 4)),
    "depthwise, tiny": ((4, 4, 3, 1, 1, 4), {"skip": True}, (2, 2, 1)),
    "depthwise, one px": ((4, 4, 3, 1, 1, 4), {"skip": True}, (5, 1, 1)),
    "depthwise, three px": ((4, 4, 3, 1, 1, 4), {"skip": True}, (2, 3, 3)),
    "depthwise, one row": ((4, 4, 3, 1, 1, 4), {"skip": True}, (2, 1, 7)),
    "depthwise, dilated": ((6, 6, 3, 1, 2, 6), {"skip": True}, (2, 11, 9)),
    "depthwise, dilated, few px": ((6, 6, 3, 1, 2, 6), {"skip": True}, (2, 3, 5)),
    "depthwise, dilated beyond": ((6, 6, 3, 1, 4, 6), {"skip": True}, (2, 3, 7)),
    "pointwise": ((6, 6, 1), {"skip": True}, (2, 7, 5)),
    "pointwise, one image": ((6, 6, 1), {"skip": True}, (1, 3, 5)),
    "pointwise, wider": ((6, 11, 1), {}, (2, 4, 5)),
    "pointwise, one px": ((6, 6, 1), {"skip": True}, (7, 1, 1)),
    "pointwise, strided": ((6, 11, 1, 2), {}, (2, 7, 6)),
    "one channel": ((1, 1, 3), {"skip": True}, (2, 7, 6)),
    "stem": ((3, 8, 3, 2), {}, (2, 9, 8)),
    "stem, even": ((3, 8, 3, 2), {}, (2, 8, 10)),
    "stem, one image": ((3, 8, 3, 2), {}, (1, 5, 7)),
    "dense": ((5, 5, 3), {"skip": True}, (2, 7, 6)),
    "dense, dilated": ((5, 5, 3, 1, 2), {"skip": True}, (2, 7, 9)),
    "dense, strided and dilated": ((5, 7, 3, 2, 2), {}, (2, 9, 9)),
    "dense, 5x5": ((2, 4, 5, 2), {}, (2, 9, 9)),
}
PLAIN = {
    "depthwise, strided": ((6, 6, 3, 2, 1, 6), {}, (2, 9, 8)),
    "depthwise, 5x5": ((6, 6, 5, 1, 1, 6), {"skip": True}, (2, 9, 8)),
    "depthwise, 1x1": ((6, 6, 1, 1, 1, 6), {"skip": True}, (2, 9, 8)),
    "depthwise, multiplied": ((3, 6, 3, 1, 1, 3), {}, (2, 9, 8)),
    "grouped": ((6, 6, 3, 1, 1, 2), {"skip": True}, (2, 9, 8)),
    "grouped pointwise": ((6, 6, 1, 1, 1, 2), {"skip": True}, (2, 9, 8)),
    "dense and wide": ((9, 9, 3), {"skip": True}, (2, 7, 6)),
}


def compare(case: tuple, branches: int = 2) -> None:
    shape, options, (count, height, width) = case
    block = make_block(*shape, branches=branches, **options)
    assert_equal(block, PlainSum(block), noise(count, shape[0], height, width))


@pytest.mark.parametrize("name", FOLDED)
def test_folded_branches_are_the_plain_sum(name, folded):
    compare(FOLDED[name])
    assert len(folded) == 2


@pytest.mark.parametrize("name", PLAIN)
def test_what_is_not_folded_is_the_plain_sum(name, folded):
    compare(PLAIN[name])
    assert not folded


@pytest.mark.parametrize("branches", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", ["depthwise, odd", "pointwise", "stem"])
def test_any_number_of_branches(name, branches, folded):
    compare(FOLDED[name], branches)
    assert folded


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", ["depthwise", "pointwise, strided", "stem"])
def test_any_layout_of_the_input(name, layout, folded):
    shape, options, (count, height, width) = FOLDED[name]
    block = make_block(*shape, **options)
    images = [x.contiguous(memory_format=layout) for x in noise(count, shape[0], height, width)]
    assert_equal(block, PlainSum(block), images)
    assert folded


def test_blocks_in_a_row_are_the_plain_ones_in_a_row(folded):
    """Gradients reach a block through all paths of the next one."""
    blocks = [make_block(*FOLDED[name][0], **FOLDED[name][1]) for name in ("depthwise", "pointwise", "depthwise")]
    plain = nn.Sequential(*map(PlainSum, blocks))
    (x,) = noise(2, 6, 9, 8, steps=1)
    gradients = []
    for network in (nn.Sequential(*blocks), plain):
        own = x.clone().requires_grad_()
        network(own).square().sum().backward()
        gradients.append(own.grad)
    assert (gradients[0] - gradients[1]).abs().max() <= BOUND * gradients[1].abs().max()
    assert len(folded) == 3


cases = pytest.mark.parametrize("name", ["depthwise", "pointwise", "stem"])


def same_plain(block: BranchedConv, name: str, bound: float = BOUND) -> None:
    shape, _, (count, height, width) = FOLDED[name]
    assert_equal(block, PlainSum(block), noise(count, shape[0], height, width), bound)


def block_of(name: str, **options) -> BranchedConv:
    shape, own, _ = FOLDED[name]
    return make_block(*shape, **{"branches": 2, **own, **options})


@cases
def test_a_copy_is_as_exact_and_its_own(name, folded):
    block = block_of(name)
    before = {key: tensor.clone() for key, tensor in block.state_dict().items()}
    same_plain(copy.deepcopy(block), name)
    assert all(torch.equal(tensor, before[key]) for key, tensor in block.state_dict().items())
    same_plain(block, name)
    assert len(folded) == 4


@cases
@pytest.mark.parametrize("frozen", ["all", "one"])
def test_frozen_norms_keep_their_statistics(name, frozen, folded):
    block = block_of(name)
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms if frozen == "all" else norms[:1]:
        norm.eval()
    before = copy.deepcopy(norms[0].state_dict())
    same_plain(block, name)
    assert not folded
    assert all(torch.equal(tensor, before[key]) for key, tensor in norms[0].state_dict().items())


@cases
def test_untrained_parameters_get_no_gradient(name, folded):
    block = block_of(name)
    for parameter in block.convs[0].parameters():
        parameter.requires_grad_(False)
    (x,) = noise(2, FOLDED[name][0][0], 9, 8, steps=1)
    block(x).square().sum().backward()
    assert folded
    assert all((p.grad is None) != p.requires_grad for p in block.parameters())


@cases
def test_statistics_are_gathered_without_gradients_too(name, folded):
    plain = PlainSum(block := block_of(name))
    (x,) = noise(2, FOLDED[name][0][0], 9, 8, steps=1)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            out, expected = block(x), plain(x)
        assert (out - expected).abs().max() <= BOUND * expected.abs().max()
    for actual, expected in zip(tensors_of(block)[1], tensors_of(plain)[1], strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    assert len(folded) == 2


@cases
def test_under_autocast_the_branches_run_as_they_are(name, folded):
    block = block_of(name, dtype=torch.float32)
    shape, _, (count, height, width) = FOLDED[name]
    (x,) = noise(count, shape[0], height, width, dtype=torch.float32, steps=1)
    expected = PlainSum(copy.deepcopy(block).double())
    reference = expected(x.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = block(x)
    assert not folded
    assert (out - reference).abs().max() <= 0.03 * reference.abs().max()
    for actual, exact in zip(tensors_of(block)[1], tensors_of(expected)[1], strict=True):
        assert (actual - exact).abs().max() <= 0.03 * exact.abs().max().clamp_min(1)


@cases
def test_half_precision_is_not_folded(name, folded):
    block = block_of(name).bfloat16()
    block(noise(2, FOLDED[name][0][0], 9, 8, steps=1)[0].bfloat16())
    assert not folded


@cases
def test_synchronised_norms_run_as_they_are(name, folded):
    plain = PlainSum(block := block_of(name))
    shape, _, (count, height, width) = FOLDED[name]
    block = nn.SyncBatchNorm.convert_sync_batchnorm(block)
    assert_equal(block, plain, noise(count, shape[0], height, width))
    assert not folded


@cases
def test_a_compiled_block_is_the_plain_sum(name, folded):
    block = block_of(name)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.2  # none makes BatchNorm itself leave the graph
    plain = PlainSum(block)
    compiled = torch.compile(block, backend="eager", fullgraph=True)
    (x,) = noise(2, FOLDED[name][0][0], 9, 8, steps=1)
    out, expected = compiled(x), plain(x)
    assert (out - expected).abs().max() <= BOUND * expected.abs().max()
    for actual, exact in zip(tensors_of(block)[1], tensors_of(plain)[1], strict=True):
        torch.testing.assert_close(actual, exact, rtol=1e-10, atol=1e-12)
    assert not folded


@cases
def test_branches_that_are_watched_or_replaced_run_as_modules(name, folded):
    plain, seen = PlainSum(block := block_of(name)), []
    shape, _, (count, height, width) = FOLDED[name]
    images = noise(count, shape[0], height, width)
    handle = block.convs[1].norm.register_forward_hook(lambda *_: seen.append(1))
    assert_equal(block, plain, images)
    assert len(seen) == 2 and not folded
    handle.remove()

    class Halved(nn.Conv2d):
        def forward(self, x):
            return super().forward(x) / 2

    block.convs[0].conv.__class__ = Halved
    plain = PlainSum(block)
    plain.convs[0].__class__ = Halved
    assert_equal(block, plain, images)
    assert not folded


@pytest.mark.parametrize("value", [0.0, 0.1, 2.0, -7.3, 1000.0])
@cases
def test_constant_channels_are_as_in_float64(name, value, folded):
    """Their variance is none, or that of the zeros beyond the border; nothing may be left of it but rounding."""
    for trial in range(5):
        block = block_of(name, dtype=torch.float32)
        for module in block.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 1e-5
        exact = PlainSum(copy.deepcopy(block).double())
        shape, _, (count, height, width) = FOLDED[name]
        x = torch.randn(count, shape[0], height, width, generator=torch.Generator().manual_seed(trial))
        x[:, ::2] = value * (1 + 0.01 * trial)
        out, expected = block(x), exact(x.double())
        magnitude = max(expected.abs().max().item(), 316 * abs(value) / 10)  # 1 / sqrt(eps) times what is normalised
        assert (out - expected).abs().max() <= 2e-5 * magnitude
        assert all(tensor.isfinite().all() for tensor in block.state_dict().values())
    assert folded


@pytest.mark.parametrize("mean", [10.0, 100.0, 1000.0])
@cases
def test_a_mean_far_above_the_deviation_costs_no_digits(name, mean, folded):
    block = block_of(name, dtype=torch.float32)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = 1e-5, 1.0  # the statistics are those of the batch
    exact = PlainSum(copy.deepcopy(block).double())
    x = mean + torch.randn(4, FOLDED[name][0][0], 16, 15, generator=torch.Generator().manual_seed(0))
    out, expected = block(x), exact(x.double())
    assert (out - expected).abs().max() <= 1e-6 * mean * expected.abs().max()
    for actual, reference in zip(tensors_of(block)[1], tensors_of(exact)[1], strict=True):
        assert ((actual - reference).abs() / reference.abs().clamp_min(0.01)).max() <= 1e-6 * mean
    assert folded


def test_channels_that_cancel_leave_no_negative_variance(folded):
    """Rounding leaves some 1e-7 of the inputs' variance, of either sign: far more than eps here."""
    for trial in range(10):
        block = block_of("pointwise", dtype=torch.float32)
        x = 1000 * torch.randn(4, 6, 9, 8, generator=torch.Generator().manual_seed(trial))
        x[:, 1:] = x[:, :1]
        with torch.no_grad():
            for branch in block.convs:
                branch.conv.weight[:, -1] = -branch.conv.weight[:, :-1].sum(1)
                branch.norm.eps = 1e-5
        assert block(x).isfinite().all()
        assert all((tensor >= 0).all() for name, tensor in block.state_dict().items() if name.endswith("running_var"))
    assert len(folded) == 10
