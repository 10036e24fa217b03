"""A packed history is unpacked into the buffer that is attended to, in one pass."""

import pytest
import torch

from cinelab.memory.store import DeviceKVStore
from cinelab.scale.host_kv import HostMemory
from cinelab.scale.quantized_kv import QuantizedKVStore, gather_dequantized, quantize


@torch.no_grad()
@pytest.mark.parametrize("packing", ["int8", "fp8"])
@pytest.mark.parametrize("place", ["device", "host"])
def test_pages_are_dequantised_into_the_buffer_that_is_given(packing, place):
    torch.manual_seed(0)
    pages = torch.randn(2, 5, 4, 2, 8, dtype=torch.bfloat16)
    new = DeviceKVStore if place == "device" else HostMemory(2).new_store
    store = QuantizedKVStore(packing, new(), new()).append(pages, 0)
    picks = torch.tensor([[[0, 3]], [[1, 4]]])
    buffer = torch.zeros(2, 10, 2, 8, dtype=torch.bfloat16)
    found = store.take(picks, 5, buffer[:, :8])
    assert found.data_ptr() == buffer.data_ptr() and not buffer[:, 8:].any()
    assert torch.equal(buffer[:, :8], store.take(picks, 5))
    store.expect(picks, 5)
    assert torch.equal(store.all(5)[0, [0, 3]].flatten(0, 1), found[0])


@torch.no_grad()
def test_the_compiled_gather_is_the_plain_one():
    torch.manual_seed(0)
    pages = torch.randn(2, 5, 4, 2, 8)
    numbers, scales = quantize(pages, "int8")
    store = QuantizedKVStore("int8", DeviceKVStore(), DeviceKVStore()).append(pages, 0)
    for picks in (torch.tensor([[[0, 3]]]), torch.tensor([[[1, 2, 4]], [[0, 0, 1]]])):
        found = gather_dequantized(
            numbers,
            scales,
            picks,
            packing="int8",
            dtype=torch.float32,
            backend="eager",
        )
        assert torch.equal(found, store.take(picks, 5))
