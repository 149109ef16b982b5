"""Inception weights of the right shapes with random values, in a file like the real one."""

import pytest
import torch


def write_weights(path):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with pytest.MonkeyPatch.context() as patch:
        # the class insists on loading weights: let it pass, to have something to save
        patch.setattr(torch, "load", lambda *args, **kwargs: {})
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            network = FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048"], feature_extractor_weights_path="nothing"
            )
    for weight in network.parameters():  # frozen
        if weight.ndim == 4:
            weight.mul_(6**0.5)  # to He's variance: signals reach the end
    network.fc.weight.mul_(50)  # classes differ
    torch.save(network.state_dict(), path)
    return path
