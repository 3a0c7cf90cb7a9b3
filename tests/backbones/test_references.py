"""The measuring rule itself: our way of dilating a reference network is torchvision's."""

import torch
import torchvision

from tests.backbones.references import dilated, outputs
from tests.oracles import randomised, relative_error


def test_dilating_a_reference_gives_torchvisions_dilated_network():
    model = randomised(torchvision.models.mobilenet_v3_large(weights=None))
    expected = torchvision.models.mobilenet_v3_large(weights=None, dilated=True).eval()
    expected.load_state_dict(model.state_dict())
    images, places = torch.rand(1, 3, 97, 65), {"c5_first": "features.13", "final": "features.16"}
    actual = outputs(dilated(model, 16), images, places)
    for tap, features in outputs(expected, images, places).items():
        assert relative_error(actual[tap], features) == 0
