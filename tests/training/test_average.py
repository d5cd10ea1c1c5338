import copy

import torch
from torch import nn

from prn_fast.training.average import make_average


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))


def test_weights_and_statistics_are_averaged_and_counts_taken_over():
    model = network()
    average = make_average(model, 0.5)
    expected = None
    for update in range(6):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        model(torch.randn(4, 2, 8, 8))
        state = copy.deepcopy(model.state_dict())
        average.update_parameters(model)
        # The first update copies; then the decay rises from 2 / 11 to what was asked for.
        decay = min(0.5, (1 + update) / (10 + update)) if update else 0.0
        if expected is None:
            expected = state
        for name, value in state.items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value
            else:
                expected[name] = value
    for name, value in average.module.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
    assert int(average.module[1].num_batches_tracked) == 6
    assert not torch.equal(average.module[0].weight, model[0].weight)


def test_what_does_not_change_stays_exactly():
    model = network()
    average = make_average(model, 0.9)
    for _ in range(5):
        average.update_parameters(model)
    for name, value in average.module.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


def test_updates_are_counted_on_the_host_whatever_the_device():
    with torch.device("meta"):
        average = make_average(network(), 0.5)
        average.update_parameters(network())
        average.update_parameters(network())
    assert average.n_averaged.device.type == "cpu"
    assert average.n_averaged == 2
