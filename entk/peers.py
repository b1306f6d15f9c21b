"""The processes of a group at one call: what they tell one another, and who is missing."""

from __future__ import annotations

import itertools
import pickle
import queue
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswerError
from contextlib import suppress
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from entk.errors import DistributedError, InputError
from entk.identity import differing
from entk.tiling import available_memory

BEAT_SECONDS = 1.0  # between two signs of life
LOST_SECONDS = 30.0  # without one: the process, or the way to it, counts as lost
START_SECONDS = 600.0  # for all to begin the call
LEAVE_SECONDS = 5.0  # that rank 0 waits for others to hear of an error
POLL_SECONDS = 0.02
MESSAGE_BYTES = 4 << 20  # of one value: a TCPStore takes 8 MB
LINE = 2000  # characters of an error that others are told
FINISHED = 1 << 40  # more beats than there are: of one that is through
NEXT = "finished shards are kept; start the processes and make the call again to go on"

_calls: Counter = Counter()  # of each group: all its processes make the same ones


class Alone:
    """One process by itself: nothing to tell, nobody to wait for."""

    rank, size = 0, 1

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        pass

    def check(self) -> None:
        """Whether the others are still there."""

    def gather(self, value: Any) -> list:
        return [value]

    def broadcast(self, value: Any) -> Any:
        return value

    def agree(self, facts: dict) -> None:
        pass

    def memory(self, device: torch.device) -> int:
        return available_memory(device)

    def total(self, parts: Iterable[tuple[int, Tensor]]) -> Tensor:
        """The sum of numbered parts, in the order of their numbers, in which they come."""
        return sum(part for _, part in parts)


class Peers(Alone):
    """The processes of a group, over its key-value store: no collective that waits for ever.

    A thread of its own, on a connection of its own, does all that touches the store. Each second it
    gives a sign of life and looks at the next rank's; what goes wrong is told to all, and raised
    where the work next calls `check`.
    """

    def __init__(self, group: dist.ProcessGroup):
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        # a name may come again for other processes
        name = f"{group.group_name}/{','.join(map(str, dist.get_process_group_ranks(group)))}"
        _calls[name] += 1
        self.prefix = f"entk/{name}/{_calls[name]}"
        self.source = dist.distributed_c10d._get_process_group_store(group)
        self.steps = itertools.count()
        self.sent = 0  # bytes of messages
        self.error = ""  # what went wrong on some rank
        self.heard = time.monotonic()  # from the store
        self.asked: queue.SimpleQueue[tuple[Callable, Future] | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._live, name="entk-peers", daemon=True)
        self.thread.start()

    def __exit__(self, kind, error, _) -> None:
        """Say goodbye; rank 0, which may be the host of the store, goes last."""
        limit = LOST_SECONDS if kind is None else LEAVE_SECONDS
        try:
            with suppress(DistributedError):
                self._leave(error, limit)
        finally:
            self.asked.put(None)

    def _leave(self, error: BaseException | None, limit: float) -> None:
        if error is not None:
            told = str(error) if isinstance(error, DistributedError) else _named(error)
            text = f"rank {self.rank}: {told}"
            self._ask(lambda s: s.compare_set("failed", "", text), limit)
        self._ask(lambda s: s.add("left", 1), limit)
        end = time.monotonic() + limit
        while self.rank == 0 and time.monotonic() < end:
            if self._ask(lambda s: s.add("left", 0), limit) == self.size:
                break
            time.sleep(POLL_SECONDS)
        self._ask(lambda s: s.add(f"beat/{self.rank}", FINISHED), limit)

    def check(self) -> None:
        """Raise DistributedError if a process is lost or has failed."""
        if self.error:
            raise DistributedError(f"{self.error}; {NEXT}")
        silent = time.monotonic() - self.heard
        if silent > LOST_SECONDS:
            raise DistributedError(
                f"rank {self.rank} has not heard from the group's store for {silent:.0f} s (its "
                f"host is down or stopped, or the network is); {NEXT}"
            )

    def gather(self, value: Any) -> list | None:
        """All values in order of ranks, on rank 0; the others do not wait."""
        step = next(self.steps)
        if self.rank != 0:
            self._post(f"{step}/{self.rank}", value)
            return None
        return [value, *(self._collect(f"{step}/{r}", last=True) for r in range(1, self.size))]

    def broadcast(self, value: Any) -> Any:
        """That of rank 0."""
        step = next(self.steps)
        if self.rank != 0:
            return self._collect(f"{step}/0")
        self._post(f"{step}/0", value)
        return value

    def agree(self, facts: dict) -> None:
        """One and the same InputError on every rank if they do not have the same."""
        every, verdict = self.gather(facts), None
        for r, other in enumerate(every or ()):
            differs = differing(facts, other)
            if differs and verdict is None:
                verdict = (
                    f"rank {r} asks for something else than rank 0: {', '.join(differs)} differ; "
                    "make the same call on every rank of the group"
                )
        verdict = self.broadcast(verdict)
        if verdict:
            raise InputError(verdict)

    def memory(self, device: torch.device) -> int:
        """What is free, divided by the ranks on one host (on one card); the least of all hosts."""
        cuda = device.type == "cuda"  # whose number is not its own: ranks may each see one card
        place = str(torch.cuda.get_device_properties(device).uuid) if cuda else socket.gethostname()
        every = self.gather((place, available_memory(device)))
        if every is not None:
            ranks = Counter(where for where, _ in every)
            every = min(free // ranks[where] for where, free in every)
        return self.broadcast(every)

    def total(self, parts: Iterable[tuple[int, Tensor]]) -> Tensor:
        """The sum of all ranks' numbered parts in the order of their numbers: the same bits."""
        every, found = self.gather(dict(self._watched(parts))), None
        if every is not None:
            merged = {number: part for own in every for number, part in own.items()}
            found = sum(merged[number] for number in sorted(merged))
        return self.broadcast(found)

    def _watched(self, parts: Iterable) -> Iterator:
        for part in parts:
            self.check()
            yield part

    def _post(self, key: str, value: Any) -> None:
        data = pickle.dumps(value)
        pieces = range(0, len(data), MESSAGE_BYTES)
        for n, start in enumerate(pieces):
            piece = data[start : start + MESSAGE_BYTES]
            self._ask(lambda s, n=n, piece=piece: s.set(f"{key}/{n}", piece))
        self._ask(lambda s: s.set(key, str(len(pieces))))
        self.sent += len(data)

    def _collect(self, key: str, last: bool = False) -> Any:
        """A message once it is there; `last`: nobody else reads it."""
        while True:
            failed = self.error  # told after the message: then that is there
            if self._ask(lambda s: s.check([key])):
                break
            if failed:
                self.check()
            time.sleep(POLL_SECONDS)
        names = [f"{key}/{n}" for n in range(int(self._ask(lambda s: s.get(key))))]
        data = b"".join(self._ask(lambda s, name=name: s.get(name)) for name in names)
        for name in names if last else ():
            self._ask(lambda s, name=name: s.delete_key(name))
        return pickle.loads(data)

    def _ask(self, question: Callable[[dist.Store], Any], limit: float | None = None) -> Any:
        """The answer of the store, through the thread that may wait for it in vain."""
        answer: Future = Future()
        self.asked.put((question, answer))
        end = time.monotonic() + (limit or LOST_SECONDS)
        while True:
            try:
                return answer.result(BEAT_SECONDS)
            except NoAnswerError:
                if not self.thread.is_alive() or time.monotonic() > end:
                    self.check()
                    raise DistributedError(f"the group's store does not answer; {NEXT}") from None

    def _live(self) -> None:
        """What the thread does."""
        try:
            store = dist.PrefixStore(self.prefix, self.source.clone())
            watched, beats, changed, due = (self.rank + 1) % self.size, 0, time.monotonic(), 0.0
            while True:
                if time.monotonic() >= due:
                    store.add(f"beat/{self.rank}", 1)
                    if store.check(["failed"]):
                        self.error = self.error or store.get("failed").decode()
                    now = store.add(f"beat/{watched}", 0)
                    self.heard = time.monotonic()
                    due = self.heard + BEAT_SECONDS
                    if now != beats:
                        beats, changed = now, self.heard
                    silent = self.heard - changed
                    if beats < FINISHED and silent > (LOST_SECONDS if beats else START_SECONDS):
                        did = "stopped giving signs of life" if beats else "has not begun the call"
                        text = f"rank {watched} {did} ({silent:.0f} s)"
                        self.error = store.compare_set("failed", "", text).decode()
                with suppress(queue.Empty):
                    asked = self.asked.get(timeout=max(due - time.monotonic(), 0.0))
                    if asked is None:
                        return
                    question, answer = asked
                    answer.set_result(question(store))
        except RuntimeError as error:  # torch's for a host that is gone
            reason = str(error).splitlines()[0]
            self.error = self.error or f"the group's store is gone, with its host ({reason})"


def peers_of(group: dist.ProcessGroup | str | None) -> Alone:
    """Of `group`: None: this process alone; "world": all of torch.distributed's."""
    if group is None:
        return Alone()
    if not (dist.is_available() and dist.is_initialized()):
        raise InputError(
            f"group={group!r}, but torch.distributed is not initialised here; call "
            "torch.distributed.init_process_group() first, or leave group= out"
        )
    if isinstance(group, str):
        if group != "world":
            raise InputError(f"group={group!r}, expected None, 'world' or a ProcessGroup")
        group = dist.group.WORLD
    if not isinstance(group, dist.ProcessGroup):
        raise InputError(f"group is {type(group).__name__}, expected a ProcessGroup of this rank")
    return Peers(group)


def _named(error: BaseException) -> str:
    """In a line that the store takes."""
    line = f"{type(error).__name__}: {error}".splitlines()[0]
    return line[:LINE].encode(errors="replace").decode()
