"""`python -m train`, with what is trained spread over CPU processes by FSDP or DeepSpeed.

accelerate spreads over accelerators only, and on CPUs copies the weights without a word. Told
afterwards that it spreads, it does, with everything of ours that meets what is spread.
"""

from __future__ import annotations

import sys

import accelerate
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from train.__main__ import main
from train.loop import processes


class Accelerator(accelerate.Accelerator):
    def __init__(self, *, fsdp_plugin=None, deepspeed_plugin=None, **options):
        super().__init__(fsdp_plugin=fsdp_plugin, deepspeed_plugin=deepspeed_plugin, **options)
        kind = DistributedType.FSDP if fsdp_plugin else DistributedType.DEEPSPEED
        for state in (PartialState, AcceleratorState):
            state._shared_state["distributed_type"] = kind
        AcceleratorState._shared_state["fsdp_plugin"] = fsdp_plugin
        if deepspeed_plugin:
            AcceleratorState._shared_state["deepspeed_plugins"] = {"default": deepspeed_plugin}
            deepspeed_plugin.select(_from_accelerator_state=True)


if __name__ == "__main__":
    processes.Accelerator = Accelerator
    sys.exit(main())
