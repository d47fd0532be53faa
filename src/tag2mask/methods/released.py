"""Whole networks as their authors published them, taken over tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from tag2mask.backbones.weights import read_state_dict
from tag2mask.errors import InputError, listed
from tag2mask.protocols import LoadsReleased


def take_over(
    network: nn.Module, names: Mapping[str, str], state: Mapping[str, Tensor], source: str, form: str, otherwise: str
) -> None:
    """Load published tensors under the names that they have here.

    Args:
        names: published name to ours, of every tensor that the file must hold.
        state: published names to tensors.
        source: the file, ``form`` what it should hold, ``otherwise`` what to do if it does not, for the error.

    Raises:
        InputError: a tensor is missing, left over or of another shape.
    """
    own = network.state_dict()
    missing = [name for name in names if name not in state and not name.endswith("num_batches_tracked")]
    left_over = [name for name in state if name not in names]
    shapes = [name for name in names if name in state and state[name].shape != own[names[name]].shape]
    problems = {"lacks": missing, "also holds": left_over, "has other shapes in": shapes}
    said = " and ".join(f"{what} {listed(which)}" for what, which in problems.items() if which)
    if said:
        raise InputError(f"{source} is not {form}: it {said}; {otherwise}")
    network.load_state_dict({names[name]: tensor for name, tensor in state.items()}, strict=False)


def released_state(method: object, weights: str) -> dict[str, Tensor] | None:
    """The tensors of ``--weights``, if that is a file with a whole network of this method rather than a backbone."""
    path = Path(weights)
    if not isinstance(method, LoadsReleased) or path.suffix.lower() == ".params" or not path.is_file():
        return None
    state = read_state_dict(path)
    return state if method.is_released(state) else None
