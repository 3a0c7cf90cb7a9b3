"""int8: what of a network is rounded (`scope`), how (`rounding`), in training (`rounded_layers`) and simulated."""
