"""Against a second implementation in plain functions over PRNet's own keys: every key and shape of a checkpoint."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from prn_fast import PRNError, load_prnet
from prn_fast.errors import WeightsError

KEYS = json.loads((Path(__file__).parent / "prnet_state_dict.json").read_text())


def random_checkpoint(seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    """Random values for every key: scaled so that activations stay in range, batch norms that are not trivial."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, entry in KEYS.items():
        shape = entry["shape"]
        if entry["dtype"] == "int64":
            state[name] = torch.zeros(shape, dtype=torch.int64)
            continue
        value = torch.randn(shape, generator=generator, dtype=dtype)
        if name.endswith("running_var"):
            value = value.abs() + 0.5
        elif len(shape) == 4:
            value *= math.sqrt(2.0 / math.prod(shape[1:]))
        elif len(shape) == 1 and name.endswith("weight"):
            value = 1 + 0.2 * value
        state[name] = value
    return state


def random_prototypes(count: int = 3, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(9)
    shapes = {"layer1": (64, 64), "layer2": (128, 32), "layer3": (256, 16)}
    return {
        name: torch.rand(count, channels, side, side, generator=generator, dtype=dtype)
        for name, (channels, side) in shapes.items()
    }


class Peer:
    """The published network, over a PRNet checkpoint."""

    def __init__(self, state, prototypes):
        self.s, self.prototypes = state, prototypes

    def conv(self, x, name, **options):
        return functional.conv2d(x, self.s[f"{name}.weight"], self.s.get(f"{name}.bias"), **options)

    def norm(self, x, name):
        s = self.s
        return functional.batch_norm(
            x, s[f"{name}.running_mean"], s[f"{name}.running_var"], s[f"{name}.weight"], s[f"{name}.bias"]
        )

    def up(self, x, factor):
        return functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=True)

    def encoder(self, x):
        x = functional.relu(self.norm(self.conv(x, "encoder.conv1", stride=2, padding=3), "encoder.bn1"))
        x = functional.max_pool2d(x, 3, 2, 1)
        maps = []
        for layer in (1, 2, 3, 4):
            for block in (0, 1):
                name = f"encoder.layer{layer}.{block}"
                stride = 2 if layer > 1 and block == 0 else 1
                y = self.norm(self.conv(x, f"{name}.conv1", stride=stride, padding=1), f"{name}.bn1").relu()
                y = self.norm(self.conv(y, f"{name}.conv2", padding=1), f"{name}.bn2")
                if f"{name}.downsample.0.weight" in self.s:
                    x = self.norm(self.conv(x, f"{name}.downsample.0", stride=stride), f"{name}.downsample.1")
                x = (x + y).relu()
            maps.append(x)
        return maps

    def residual(self, x, prototypes):
        distances = [((x - p + 1e-6) ** 2).flatten(1).sum(1) for p in prototypes]
        return (x - prototypes[torch.stack(distances, 1).argmin(1)]) ** 2

    def fuse(self, number, x1, x2, x3):
        def up(x, name, factor):
            return self.conv(self.up(x, factor), f"ms_fuser{number}.{name}.conv")

        def down(x, name, stride):
            return self.conv(
                x,
                f"ms_fuser{number}.{name}",
                stride=stride,
                padding=stride // 2 if stride == 4 else 1,
                groups=x.shape[1],
            )

        return (
            x1 + up(x2, "l2_to_l1", 2) + up(x3, "l3_to_l1", 4),
            x2 + down(x1, "l1_to_l2", 2) + up(x3, "l3_to_l2", 2),
            x3 + down(x1, "l1_to_l3", 4) + down(x2, "l2_to_l3", 2),
        )

    def attention(self, x, name):
        outputs = []
        for size in (1, 2, 3, 4):
            patch = x.shape[2] // 2 ** (size - 1)
            tokens = functional.unfold(x, patch, stride=patch).transpose(1, 2)

            def project(letter, tokens=tokens, size=size):
                prefix = f"{name}.{letter}_proj{size}"
                return tokens * self.s[f"{prefix}.weight"].flatten() + self.s[f"{prefix}.bias"]

            weights = torch.softmax(project("q") @ project("k").transpose(1, 2) / tokens.shape[2], dim=-1)
            mixed = (weights @ project("v")).transpose(1, 2)
            outputs.append(functional.fold(mixed, x.shape[2:], patch, stride=patch))
        x = torch.cat(outputs, 1)
        name = f"{name}.residual_block"
        y = self.norm(self.conv(x, f"{name}.conv1", padding=1), f"{name}.norm1").relu()
        y = self.norm(self.conv(y, f"{name}.conv2", padding=1), f"{name}.norm2")
        return (y + self.conv(x, f"{name}.downsample")).relu()

    def logits(self, images):
        *features, deepest = self.encoder(images)
        residuals = [self.residual(x, self.prototypes[f"layer{i}"]) for i, x in enumerate(features, 1)]
        joined = [torch.cat(pair, 1) for pair in zip(self.fuse(1, *features), self.fuse(1, *residuals), strict=True)]
        for scale in range(3):
            for layer in range(3):
                joined[scale] = self.attention(joined[scale], f"attn_module.layer{scale + 1}_msa.{layer}")
        fused = self.fuse(2, *joined)
        x = deepest
        for scale in (3, 2, 1):
            name = f"up{scale + 1}_to_{scale}"
            x = self.norm(self.conv(self.up(x, 2), f"{name}.1", padding=1), f"{name}.2").relu()
            x = torch.cat([fused[scale - 1], x], 1)
            for first in (0, 3):
                name = f"conv_block{scale}"
                x = self.norm(self.conv(x, f"{name}.{first}", padding=1), f"{name}.{first + 1}").relu()
        x = self.norm(self.conv(self.up(x, 4), "up1_to_0.1", padding=1), "up1_to_0.2").relu()
        return self.conv(x, "conv_out", padding=1)


@pytest.mark.long
def test_logits_are_the_peers_in_float64():
    state, prototypes = random_checkpoint(), random_prototypes()
    images = torch.randn(1, 3, 256, 256, dtype=torch.float64)
    with torch.no_grad():
        expected = Peer(state, prototypes).logits(images)
        found = load_prnet(state, prototypes).logits(images)
    assert float(expected.std()) > 1e-3
    assert found.shape == (1, 1, 256, 256)
    assert float((found - expected).norm() / expected.norm()) < 1e-9


def test_structure_follows_from_the_checkpoint():
    model = load_prnet(random_checkpoint(dtype=torch.float32), random_prototypes(5, torch.float32))
    assert model.config.backbone == "resnet18"
    assert (model.config.image_size, model.config.attention_layers) == (256, 3)
    assert model.config.prototypes == (5, 5, 5)
    assert not model.training
    assert model.decoder.out.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s, p: s.pop("conv_block2.3.weight"), "block2"),
        (lambda s, p: s.pop("attn_module.layer2_msa.1.k_proj3.bias"), "query_key"),
        (lambda s, p: s.update(extra=torch.zeros(1)), "extra is unknown"),
        (lambda s, p: s.update({"conv_out.weight": torch.zeros(2, 64, 3, 3)}), "2 output classes"),
        (lambda s, p: s.update({"up4_to_3.1.weight": torch.zeros(256, 512, 1, 1)}), r"up4_to_3\.1\.weight has shape"),
        (lambda s, p: s["ms_fuser1.l2_to_l1.conv.weight"].fill_(math.nan), "NaN"),
        (lambda s, p: p.pop("layer3"), "layer3"),
        (lambda s, p: p["layer1"].fill_(math.inf), "layer1 holds NaN or infinite"),
        (lambda s, p: p.update(layer2=torch.zeros(3, 128, 16, 16)), "prototypes"),
    ],
    ids=[
        "missing",
        "missing-part",
        "unknown",
        "classes",
        "shape",
        "nan",
        "no-prototypes",
        "infinite",
        "prototype-shape",
    ],
)
def test_what_does_not_fit_is_named(spoil, message):
    state, prototypes = random_checkpoint(dtype=torch.float32), random_prototypes(dtype=torch.float32)
    spoil(state, prototypes)
    with pytest.raises(PRNError, match=message):
        load_prnet(state, prototypes)


def test_errors_are_weights_errors_where_the_weights_are_at_fault():
    with pytest.raises(WeightsError):
        load_prnet({}, random_prototypes())
