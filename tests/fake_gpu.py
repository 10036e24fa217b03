"""A plugin of pytest, `-p fake_gpu`: torch says that a GPU is there, and whatever touches it fails.

So the suite can be seen to leave a machine's GPU alone where no test asks for it.
"""

import torch

from cinelab.ops import attention

FOUND = {
    "is_available": lambda: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "get_device_name": lambda *_: "A GPU that is not there",
    "get_device_capability": lambda *_: (9, 0),
    # the compiler keeps the generator's state while it traces
    "get_rng_state": lambda *_: torch.get_rng_state(),
    "set_rng_state": lambda *_: None,
}
for name, answer in FOUND.items():
    setattr(torch.cuda, name, answer)
# whoever takes a kernel's word for it calls the kernel, with tensors of a CPU
attention.available = lambda kernel: kernel in attention.KERNELS
