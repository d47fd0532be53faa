"""Several processes on one run, started by torchrun or accelerate launch: gloo on CPUs, NCCL on GPUs. One process uses
none of it.

The main process (rank 0) decides and writes what there is one of: the run folder, manifests, checkpoints, reports. All
share the photos of a stage and the photos of every batch.
"""

from tag2mask.processes.environment import Place, place
from tag2mask.processes.group import (
    ProcessLost,
    exchange,
    from_main,
    is_main,
    join,
    leave,
    local_place,
    own,
    own_block,
    rank,
    started,
    tell_failure,
    tell_said,
    together,
    world,
)
from tag2mask.processes.tensors import (
    all_sum,
    batch_sum,
    from_main_tensor,
    mean,
    ratio,
    rows,
    set_share,
    sum_gradients,
    whole_batch,
)

__all__ = [
    "Place",
    "ProcessLost",
    "all_sum",
    "batch_sum",
    "exchange",
    "from_main",
    "from_main_tensor",
    "is_main",
    "join",
    "leave",
    "local_place",
    "mean",
    "own",
    "own_block",
    "place",
    "rank",
    "ratio",
    "rows",
    "set_share",
    "started",
    "sum_gradients",
    "tell_failure",
    "tell_said",
    "together",
    "whole_batch",
    "world",
]
