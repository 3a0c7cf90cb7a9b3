"""Build layers without drawing random values for weights that are to be replaced."""

import torch
from torch.nn import init
from torch.overrides import TorchFunctionMode

DRAWS = {
    torch.Tensor.uniform_, torch.Tensor.normal_, init.uniform_, init.normal_,
    init.kaiming_uniform_, init.kaiming_normal_, init.xavier_uniform_, init.xavier_normal_,
}  # fmt: skip


class no_initial_values(TorchFunctionMode):
    """Leave weights as memory holds them in the block, and torch's random state as it is.

    `torch.nn.utils.skip_init` builds on the meta device, where the first draw imports torch's compiler: seconds.

    >>> state = torch.get_rng_state()
    >>> with no_initial_values():
    ...     layer = torch.nn.Linear(4, 2)
    >>> torch.equal(torch.get_rng_state(), state)
    True
    """

    def __enter__(self):
        # It is not dispatched as the others are, and would draw again until what memory holds lies within its bounds.
        self.truncated, init.trunc_normal_ = init.trunc_normal_, lambda tensor, *_, **__: tensor
        return super().__enter__()

    def __exit__(self, *error):
        init.trunc_normal_ = self.truncated
        return super().__exit__(*error)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
