"""The weights of a learned anomaly map, fitted on what training has held out.

Logistic regression tells pixels of defects from all others (`prn_fast.training.logistic`). Each class weighs one half;
the pixels of seen anomalies, which are real, weigh as much as those of all generated ones, and a screen's view of them
is that of screens that do not know them (`prn_fast.training.cross_fit`). The sum is then scaled and shifted to the mean
and the spread that the network's own logits have over the held-out normal images, so that map values lie where they
did.

The network and the screen have learned from anomalies of the same generator that makes the validation's, and from the
seen defects; the memory knows neither. So a fit trusts them too much, most of all one to generated anomalies alone.
Therefore the shares of the sum are a mean of the fitted ones and of `PRIOR_SHARES`, which weigh as much as
`PRIOR_DEFECTS` seen defects:

    share of a view = its weight times its deviation over the pixels of normal images, over the sum of all of these
    shares = (n fitted + k prior) / (n + k)         n seen defects, k = PRIOR_DEFECTS
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from prn_fast.model.config import SCREEN_STRIDE
from prn_fast.model.learned_map import MEMORY, NETWORK, SCREEN, enlarged
from prn_fast.model.prn import PRN
from prn_fast.training.logistic import fit_slopes
from prn_fast.training.screen import EXTRACTION_BATCH

# Neighbouring pixels tell the same: of this many along each axis, one is fitted to.
STEP = 4
PENALTY = 1e-3
# In proportion; those of the views that a map has are taken.
PRIOR_SHARES = {NETWORK: 1.0, MEMORY: 2.0, SCREEN: 1.0}
# Chosen by defects that the network had not seen: `python -m prn_fast.bench.accuracy maps`.
PRIOR_DEFECTS = 5.0


@dataclass(frozen=True)
class Views:
    """What a learned map weighs, of N images.

    Attributes:
        logits: float32 (N, S, S), the network's.
        others: float32 (N, J - 1, S / 8, S / 8), as `LearnedMap.views` gives them.
    """

    logits: NDArray[np.float32]
    others: NDArray[np.float32]

    def screened(self, logits: NDArray[np.float32]) -> "Views":
        """The same with other logits (N, S / 8, S / 8) of a screen, the last of the others."""
        return Views(self.logits, np.concatenate([self.others[:, :-1], logits[:, None]], axis=1))

    def pixels(self) -> NDArray[np.float32]:
        """(N, S / 4, S / 4, J): one pixel in `STEP` along each axis, the others enlarged."""
        taken = slice(STEP // 2, None, STEP)
        count, side, _ = self.logits.shape
        found = np.empty((count, side // STEP, side // STEP, 1 + self.others.shape[1]), np.float32)
        for index, (own, others) in enumerate(zip(self.logits, self.others, strict=True)):
            found[index, ..., 0] = own[taken, taken]
            if len(others):
                found[index, ..., 1:] = enlarged(torch.from_numpy(others)[None])[0, :, taken, taken].permute(1, 2, 0)
        return found


@torch.inference_mode()
def view_images(model: PRN, images: NDArray[np.uint8]) -> Views:
    """What a network's map is made of; of a network without a learned map, its logits alone.

    Args:
        model: put into eval mode.
        images: (N, S, S, C).
    """
    model.eval()
    device, side, learned_map = next(model.parameters()).device, model.config.image_size, model.learned_map
    count, coarse = 0 if learned_map is None else len(learned_map.names) - 1, side // SCREEN_STRIDE
    found = Views(
        np.empty((len(images), side, side), np.float32), np.empty((len(images), count, coarse, coarse), np.float32)
    )
    for start in range(0, len(images), EXTRACTION_BATCH):
        part = slice(start, start + EXTRACTION_BATCH)
        pixels = torch.from_numpy(images[part]).to(device)
        logits, features, residuals = model.examine(model.normalize(pixels))
        found.logits[part] = logits[:, 0].cpu().numpy()
        if learned_map is not None:
            found.others[part] = learned_map.views(features, residuals).cpu().numpy()
    return found


def fit_map(
    validation: Views,
    labels: NDArray[np.integer],
    masks: NDArray[np.bool_],
    seen: Views,
    seen_masks: NDArray[np.bool_],
    names: Sequence[str],
    prior_defects: float = PRIOR_DEFECTS,
) -> NDArray[np.float32]:
    """The weights.

    Args:
        validation: of the validation images.
        labels, masks: (N,) and (N, S, S) of these, 0 normal and 1 anomalous; both occur.
        seen: of the seen anomalies, none or more.
        seen_masks: (M, S, S).
        names: J of the views, as `LearnedMap.names` has them.
        prior_defects: see the module; infinite leaves the shares to the prior alone.
    Returns:
        (J + 1,) for `LearnedMap.set_weights`. They leave the network's map as it is where no defect has a pixel among
        those that are fitted to, or where nothing tells defects apart.
    """
    unchanged = np.zeros(2 + validation.others.shape[1], np.float32)
    unchanged[0] = 1.0
    taken = slice(STEP // 2, None, STEP)
    pixels = np.concatenate([validation.pixels(), seen.pixels()])
    defect = np.concatenate([masks, seen_masks])[:, taken, taken]
    kind = np.concatenate([labels, np.full(len(seen_masks), 2)])
    generated, real = ((kind == one)[:, None, None] & defect for one in (1, 2))
    share = 0.5 if real.any() and generated.any() else 1.0
    weights = np.zeros(defect.shape)
    for mine in (generated, real):
        weights[mine] = share / max(int(mine.sum()), 1)
    for one, weight in ((0, 1.0), (1, share), (2, share)):
        mine = (kind == one)[:, None, None] & ~defect
        weights[mine] = weight / max(int(mine.sum()), 1)
    if not defect.any():
        return unchanged
    flat = pixels.reshape(-1, pixels.shape[-1])
    slopes = fit_slopes(flat, defect.ravel(), PENALTY, weights.ravel())
    normal = pixels[kind == 0].reshape(len(pixels[kind == 0]), -1, pixels.shape[-1]).astype(np.float64)
    slopes = _with_prior(slopes, normal.std((0, 1)), names, len(seen_masks), prior_defects)
    before, after = normal[..., 0], normal @ slopes
    if not after.std() > 0 or not before.std() > 0:
        return unchanged
    scale = before.std() / after.std()
    return np.append(scale * slopes, before.mean() - scale * after.mean()).astype(np.float32)


def _with_prior(
    slopes: NDArray[np.float64],
    deviations: NDArray[np.float64],
    names: Sequence[str],
    seen: int,
    prior_defects: float,
) -> NDArray[np.float64]:
    """Slopes (J,) of mean shares, given the deviations (J,) of the views; a view without any gets no weight."""
    prior = np.array([PRIOR_SHARES[name] for name in names]) * (deviations > 0)
    fitted = slopes * deviations
    if not prior_defects or not fitted.sum() > 0:
        return slopes
    kept = seen / (seen + prior_defects)
    shares = kept * fitted / fitted.sum() + (1 - kept) * prior / prior.sum()
    return np.divide(shares, deviations, out=np.zeros_like(shares), where=deviations > 0)
