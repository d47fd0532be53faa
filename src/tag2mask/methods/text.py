r"""Text maps: what a text tower says of each cell of a photo. Tags are words, so nothing is trained.

Idea. A pair of towers was trained so that a photo and its caption lie close. The text of a tag is a point in that
space, and so is every cell of the photo once it is read in the right way; where the two are close, the tag is.

.. math::
    s_t(p) = \tau \cos\bigl(f(p), w_t\bigr), \qquad
    M_c(p) = \frac{\exp s_c(p)}{\sum_{c' \in y} \exp s_{c'}(p) + \sum_{b} \exp s_b(p)}

* :math:`w_t` -- mean of the embedded texts of a class, or of a background word :math:`b`; :math:`y` -- the tags.
* :math:`f(p)` -- the cell as the last block gives it when every token attends to itself alone, projected as the class
  token is: its attention gathers the whole photo for the class token and spoils cells (Zhou, Loy, Dai, ECCV 2022,
  Sec. 3.2, where the residual and the feed-forward layer stay in ViTs). Where a model pools by attention (SigLIP), a
  cell is pooled alone.
* :math:`\tau` -- ``scale``; softmax over the present tags and the background words.

``form gradient`` is CLIP-ES's (Lin et al., CVPR 2023, Sec. 3.2): with :math:`S` the softmax of the whole photo, whose
embedding is the mean of its cells' last tokens (its code), and :math:`A_k(p)` what the last block's attention is given,

.. math::
    M_c(p) = \max\Bigl(0, \sum_k \bigl(\tfrac{1}{|\Omega|} \textstyle\sum_q \partial S_c / \partial A_k(q)\bigr)
             A_k(p)\Bigr)

Its class-aware attention affinity is ``--propagate attention``. Left out: its confidence-guided loss.

The texts are embedded once, when the run begins, and kept with the network: maps need no text tower.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask.backbones import Backbone
from tag2mask.backbones.attention import attending
from tag2mask.backbones.tokens import TokenBlock, TokenGrid, unpack
from tag2mask.errors import InputError
from tag2mask.layers.fine_maps import watched
from tag2mask.methods.text_settings import TextSettings, competing, texts_of, tower_of
from tag2mask.methods.text_tower import TextEmbedder, check_tower
from tag2mask.types import Batch, Pretrained, Views


class DenseImages(nn.Module):
    """An image tower, read cell by cell and as a whole, in the space of its text tower.

    Args:
        backbone: a vision transformer whose :attr:`~tag2mask.backbones.Backbone.top` leads into that space.

    Raises:
        InputError: it is none.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.last = attending(backbone)[-1]
        if not any(True for layer in backbone.top for _ in layer.parameters()):
            raise InputError(
                f"--backbone {backbone.name} has no layer that leads to a text tower (--weights FILE must hold head.* "
                "or attn_pool.*): give the weights of a whole image tower, as timm has them"
            )
        self.top = nn.ModuleList(backbone.top)
        with torch.no_grad():
            cell = next(self.top.parameters()).new_zeros(1, 1, backbone.channels)
            self.channels = self._lifted(cell).shape[-1]

    def before_last(self, views: Views) -> Tensor:
        """What the last block is given, packed ``[batch channels above+rows columns]``."""
        assert not views.stored, "text maps are made from photos"
        names = self.backbone.names
        return self.backbone.until(views.images, names[names.index(self.last) - 1])

    def grid(self, views: Views) -> Tensor:
        """:math:`f`, of length 1: ``[batch channels rows columns]``."""
        x, block = self.before_last(views), self._block
        rows, columns = self.backbone.grid(x, self.last)
        cells = unpack(x, block.prefix)[:, block.prefix :].flatten(0, 1)[:, None]  # each a sequence of its own
        lifted = self._lifted(self._normed(block.block(cells))).float()  # alone, positions play no part
        grid = lifted.unflatten(0, (len(x), rows, columns))[:, :, :, 0].permute(0, 3, 1, 2)
        return F.normalize(grid, dim=1)

    def whole(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The photo's embedding ``[batch channels]`` of length 1, differentiable in the second: what the last block's
        attention is given for its cells, ``[batch tokens channels]``, prefix tokens first.

        Args:
            x: of :meth:`before_last`.
        """
        block = self._block
        norm = block.block.norm1
        assert isinstance(norm, nn.Module)
        with watched(norm) as seen:
            grid = self.backbone.grid(x, self.last)
            tokens = self._normed(block.of_tokens(unpack(x, block.prefix), grid))[:, block.prefix :]
        pooled = self._lifted(tokens) if self._pools else self._lifted(tokens.mean(1, keepdim=True))
        return F.normalize(pooled.flatten(1).float(), dim=1), seen[0]

    @property
    def _block(self) -> TokenBlock:
        block = self.backbone.blocks[self.last]
        assert isinstance(block, TokenBlock)
        return block

    @property
    def _pools(self) -> bool:
        return len(self.top) > 2  # an attention pooling before the norm and the head

    def _normed(self, tokens: Tensor) -> Tensor:
        last = self.backbone.blocks[self.backbone.names[-1]]
        assert isinstance(last, TokenGrid)
        return last.norm(tokens)

    def _lifted(self, tokens: Tensor) -> Tensor:
        """``[batch tokens channels]`` to the shared space: each token, or by a pooling one of all."""
        x = tokens
        for layer in self.top:
            x = layer(x)
        return x if x.ndim == 3 else x[:, None]


class TextMaps(nn.Module):
    """The method page of text maps.

    Args:
        backbone: an image tower of :data:`~tag2mask.methods.text_settings.TOWERS`, or another with ``settings.tower``.
        classes: number of foreground classes.

    Raises:
        InputError: the backbone is no image tower, or none with a known text tower.
    """

    def __init__(self, backbone: Backbone, classes: int, settings: TextSettings = TextSettings()) -> None:
        super().__init__()
        self.settings, self.traits = settings, settings.traits
        self.tower = tower_of(settings, backbone.name)
        self.images = DenseImages(backbone)
        words = len(settings.background)
        self.texts: Tensor
        self.compete: Tensor
        self.register_buffer("texts", torch.zeros(classes + words, self.images.channels))  # background words last
        self.register_buffer("compete", torch.ones(words, dtype=torch.bool))

    def check_class_names(self, names: Sequence[str]) -> None:
        """As of :class:`tag2mask.protocols.UsesClassNames`."""
        competing(names, texts_of(names, self.settings), self.settings)
        check_tower(self.tower)

    def take_class_names(self, names: Sequence[str]) -> Pretrained:
        """As of :class:`tag2mask.protocols.UsesClassNames`; the text tower is loaded here, and only here."""
        texts = texts_of(names, self.settings)
        compete = competing(names, texts, self.settings)
        embedder = TextEmbedder(self.tower)
        words = [self.settings.template.replace("{}", word) for word in self.settings.background]
        embedded = [F.normalize(embedder.embed(of).mean(0), dim=0) for of in (*texts, *([word] for word in words))]
        self.keep(torch.stack(embedded), torch.tensor(compete))
        return embedder.pretrained

    def keep(self, texts: Tensor, compete: Tensor) -> None:
        """Take over :math:`w`: ``[classes+words channels]``, and which words compete, ``[words]`` bool.

        Raises:
            InputError: they are of another space than the cells.
        """
        if texts.shape[1] != self.images.channels:
            raise InputError(
                f"the text tower {self.tower} gives {texts.shape[1]} numbers and the image tower "
                f"{self.images.backbone.name} {self.images.channels}: they were not trained together; give a pair "
                "(--backbone, --text.tower; auto knows some)"
            )
        self.texts.copy_(texts)
        self.compete.copy_(compete)

    def localize(self, batch: Batch) -> Tensor:
        """:math:`M`; of classes that are not tagged 0."""
        if self.settings.form == "gradient":
            return self._by_gradient(batch)
        scores = torch.einsum("bdrc,td->btrc", self.images.grid(batch), self.texts)
        return self._shares(scores, batch.labels > 0)

    def _shares(self, cosines: Tensor, tagged: Tensor) -> Tensor:
        """Softmax of ``[batch classes+words ...]`` over tagged classes and competing words: ``[batch classes ...]``."""
        absent = torch.cat([~tagged, (~self.compete).expand(len(tagged), -1)], 1)
        absent = absent.view(*absent.shape, *(1 for _ in cosines.shape[2:]))
        scores = torch.where(absent, -torch.inf, self.settings.scale * cosines)
        return scores.softmax(1)[:, : tagged.shape[1]]

    def _by_gradient(self, batch: Batch) -> Tensor:
        with torch.inference_mode(False):
            with torch.no_grad():
                before = self.images.before_last(batch).clone()  # what an inference mode around it made has no gradient
            with torch.enable_grad():
                whole, seen = self.images.whole(before)
                shares = self._shares(whole @ self.texts.T, batch.labels > 0)
                grid = self.images.backbone.grid(before, self.images.last)
                cells = seen.detach()[:, -grid[0] * grid[1] :]
                maps = torch.zeros(*shares.shape, cells.shape[1], device=cells.device)
                for c in batch.labels.any(0).nonzero().flatten().tolist():
                    (gradient,) = torch.autograd.grad(shares[:, c].sum(), seen, retain_graph=True)
                    weights = gradient[:, -cells.shape[1] :].mean(1, keepdim=True)
                    maps[:, c] = (weights * cells).sum(2).relu()
        return (maps * batch.labels[:, :, None]).unflatten(2, grid)
