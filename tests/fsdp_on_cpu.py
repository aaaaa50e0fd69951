"""`python -m train`, with what is trained sharded over CPU processes by FSDP.

accelerate shards over accelerators only, and on CPUs copies the weights without a word. Told
afterwards that it shards, it does, with everything of ours that meets sharded tensors.
"""

from __future__ import annotations

import sys

import accelerate
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from train.__main__ import main
from train.loop import processes


class Accelerator(accelerate.Accelerator):
    def __init__(self, *, fsdp_plugin=None, **options):
        super().__init__(fsdp_plugin=fsdp_plugin, **options)
        for state in (PartialState, AcceleratorState):
            state._shared_state["distributed_type"] = DistributedType.FSDP
        AcceleratorState._shared_state["fsdp_plugin"] = fsdp_plugin


if __name__ == "__main__":
    processes.Accelerator = Accelerator
    sys.exit(main())
