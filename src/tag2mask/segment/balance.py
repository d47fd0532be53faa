r"""What balancing the loss did to a segmenter's probabilities, and how it is undone.

A pixel of label l weighs :math:`w_l = n_l^{-b}` in the loss, so that rare labels are learned at all. A network that
minimises it says :math:`q(l) \propto w_l\, p(l)` where p is what its masks say: it sees rare labels too often. Dividing
by the weights gives p back (prior correction; Menon et al., Long-tail learning via logit adjustment, ICLR 2021):

.. math:: \log p(l) = \log q(l) - \log w_l + \text{const}
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tag2mask import processes
from tag2mask.segment.pyramid import logits_of
from tag2mask.types import IGNORE, Views


def pixels_of(masks: Tensor, labels: int) -> Tensor:
    """``[labels]`` int64: how many decided pixels of ``[batch height width]`` have each label."""
    if masks.is_cuda:  # counting bins waits for the device, which a training step must not
        return torch.stack([(masks == label).sum() for label in range(labels)])
    return torch.bincount(masks[masks != IGNORE], minlength=labels)


class LabelBalance(nn.Module):
    """The weights of labels, and their mean logarithm over the batches of a training, kept with the network.

    Attributes:
        log_weights: ``[labels]`` float32, the sum of each label's log weight over the batches that show it.
        batches: ``[labels]`` float32, how many these are.
    """

    log_weights: Tensor
    batches: Tensor

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.register_buffer("log_weights", torch.zeros(labels))
        self.register_buffer("batches", torch.zeros(labels))

    def reset(self) -> None:
        """Before a training."""
        self.log_weights.zero_()
        self.batches.zero_()

    def weights(self, masks: Tensor, balance: float) -> Tensor:
        """``[labels]`` of a batch of masks ``[batch height width]`` int64: :math:`n_l^{-b}`, where :math:`n_l` of its
        pixels have label l (0 where none has); remembered while training.

        Args:
            balance: :math:`b`; 1: all labels weigh the same.
        """
        pixels = processes.whole_batch(pixels_of(masks, len(self.batches)).float())
        shown = pixels > 0
        if self.training:
            self.log_weights -= balance * pixels.clamp(min=1).log()
            self.batches += shown
        return torch.where(shown, pixels.clamp(min=1) ** -balance, 0.0)

    def undone(self, logits: Tensor, share: float = 1.0) -> Tensor:
        """Logits ``[batch labels rows columns]`` as of a network that was taught all pixels alike; with a ``share``
        below 1, on the way there."""
        mean = self.log_weights / self.batches.clamp(min=1)
        return logits.float() - share * mean[:, None, None]


def balance_of(segmenter: nn.Module) -> LabelBalance | None:
    """Of a segmenter that was built here; None: of a method that segments by itself."""
    return next((part for part in segmenter.modules() if isinstance(part, LabelBalance)), None)


def decided_logits(
    segmenter: nn.Module, views: Views, valid: Tensor | None, prior_correction: float
) -> tuple[Tensor, Tensor | None]:
    """Logits that masks are decided by, and the photo's class logits where the segmenter has them.

    Args:
        prior_correction: of :class:`tag2mask.segment.InferenceSettings`.
    """
    logits, shown = logits_of(segmenter, views, valid)
    balance = balance_of(segmenter)
    return logits if balance is None else balance.undone(logits, prior_correction), shown
