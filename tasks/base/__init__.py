"""What every task shares: `task.VisionTask` is the contract, `network.Network` what it trains and exports.

`build` makes both from a configuration, `checkpoint` from a file of a training run.
"""
