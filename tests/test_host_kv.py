"""A history in host memory is never a wrong page, whatever order its streams work in."""

import random

import pytest
import torch

from cinelab.memory.store import DeviceKVStore
from cinelab.scale.host_blocks import BLOCK_PAGES, HostBlocks
from cinelab.scale.host_kv import HostMemory
from cinelab.scale.streams import Streams


class Event:
    """Of one piece of work: whether it is done."""

    done = False


class Queue:
    """A stream of a device that is late: work waits until `Device.run_some` does it."""

    def __init__(self):
        self.work = []

    def run(self, work, after=()):
        event = Event()
        self.work.append((work, [one for one in after if one is not None], event))
        return event

    def uses(self, tensor):
        pass


class Device:
    """Three streams whose work is done in any order that their events allow."""

    def __init__(self, seed, *, heeds_events=True):
        self.chance = random.Random(seed)
        self.queues = [Queue(), Queue(), Queue()]
        self.streams = Streams(*self.queues)
        self.heeds_events = heeds_events

    def ready(self, queue):
        if not queue.work:
            return False
        return not self.heeds_events or all(event.done for event in queue.work[0][1])

    def run_some(self, most=10**6):
        for _ in range(most):
            ready = [queue for queue in self.queues if self.ready(queue)]
            if not ready:
                assert not any(queue.work for queue in self.queues)  # no two wait for each other
                return
            work, _, event = self.chance.choice(ready).work.pop(0)
            work()
            event.done = True


def a_film(seed, *, heeds_events=True, slots=3):
    """Take and append pages in a chance order on a late device; return what was taken from host
    memory, and what the device's own store gives."""
    device = Device(seed, heeds_events=heeds_events)
    generator = torch.Generator().manual_seed(seed)
    chance = random.Random(seed)
    host = HostMemory(slots, device.streams).new_store()
    plain = DeviceKVStore()
    found = []
    for length in range(12):
        page = torch.randn(2, 1, 3, 2, 4, generator=generator)
        host = host.append(page, length)
        plain = plain.append(page, length)
        n = length + 1
        for _ in range(2):
            groups = chance.choice([1, 2])
            picks = torch.randint(n, (1, groups, min(n, 2)), generator=generator)
            host.expect(picks, n)
            found.append((host.take(picks, n), plain.take(picks, n)))
            device.run_some(chance.randrange(4))
        if length % 4 == 3:
            found.append((host.all(n), plain.all(n).clone()))
    device.run_some()
    return host, found


@torch.no_grad()
@pytest.mark.parametrize("slots", [1, 3, 5])
def test_late_copies_never_give_a_wrong_page(slots):
    for seed in range(25):
        _, found = a_film(seed, slots=slots)
        assert all(torch.equal(host, plain) for host, plain in found)


@torch.no_grad()
def test_without_the_events_pages_are_wrong():
    wrong = [
        not all(torch.equal(*pair) for pair in a_film(seed, heeds_events=False)[1])
        for seed in range(10)
    ]
    assert all(wrong)


@torch.no_grad()
def test_every_page_is_copied_out_once_and_only_missing_ones_in():
    store = HostMemory(3).new_store()
    pages = torch.randn(1, 6, 4, 2, 8)
    for n in range(6):
        store = store.append(pages[:, n : n + 1], n)
    page = store.page_bytes()
    assert (store.traffic.bytes_out, store.traffic.bytes_in) == (6 * page, 0)
    store.take(torch.tensor([[[4, 5]]]), 6)
    assert store.traffic.bytes_in == 0
    store.take(torch.tensor([[[0, 5]]]), 6)
    store.take(torch.tensor([[[0, 4]]]), 6)
    assert store.traffic.bytes_in == page
    store.expect(torch.tensor([[[1, 5]]]), 6)
    assert store.traffic.bytes_in == 2 * page
    assert torch.equal(store.take(torch.tensor([[[1, 5]]]), 6), pages[:, [1, 5]].flatten(1, 2))
    assert store.traffic.bytes_in == 2 * page and store.traffic.waits == 0


class Apart(HostMemory):
    """Host memory of which every choice seems to be made on the device."""

    def known(self, picks):
        return None if self._read is None or self._read[0] is not picks else self._read[1]


@torch.no_grad()
def test_the_host_waits_once_for_a_choice_and_not_where_all_pages_are_there():
    memory = Apart(3)
    pages = torch.randn(1, 5, 4, 2, 8)
    keys, values = (memory.new_store().append(pages[:, :3], 0) for _ in range(2))
    for picks in torch.tensor([[[0, 1]]]), torch.tensor([[[2, 0]]]):
        assert torch.equal(keys.take(picks, 3), pages[:, picks.flatten()].flatten(1, 2))
    assert memory.traffic.waits == 0
    keys, values = (store.append(pages[:, 3:], 3) for store in (keys, values))
    for waits in (1, 2):
        picks = torch.tensor([[[0, 4]]])
        for store in (keys, values):
            store.expect(picks, 5)  # never waits
            assert torch.equal(store.take(picks, 5), pages[:, [0, 4]].flatten(1, 2))
        assert memory.traffic.waits == waits


def test_blocks_are_of_many_pages():
    blocks = HostBlocks(pinned=False)
    shape = torch.Size((1, 4, 2, 8))
    pages = [blocks.page(shape, torch.float32) for _ in range(BLOCK_PAGES)]
    for n, page in enumerate(pages):
        page.fill_(n)
    assert len({page.untyped_storage().data_ptr() for page in pages}) == 1
    assert all((page == n).all() for n, page in enumerate(pages))
    assert blocks.allocated <= 2 * BLOCK_PAGES * 512
