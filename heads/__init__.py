"""Heads: feature maps in, raw predictions out; no targets and no losses.

`base` holds the interface. Classifiers stand in `classification`, decoders in `lraspp`, detectors in `ssdlite` and
`gfl_lite`. Beside them: anchors, box coding, matching, and non-maximum suppression (`nms`; `static_nms` for export).
"""
