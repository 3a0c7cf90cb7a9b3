"""int8: which layers are rounded (`scope`), how (`rounding`), in training (`rounded_layers`), in `simulated_int8`."""
