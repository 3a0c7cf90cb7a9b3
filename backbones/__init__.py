"""Backbones: images in, feature maps at named taps out; one family a file.

`base` holds the interface, `variants` the families' tables and factories, `blocks` the layers, `weights` the loading of
weights of any origin. `timm` makes any timm model a backbone.
"""
