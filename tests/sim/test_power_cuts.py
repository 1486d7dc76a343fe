"""The dataserver's real store, on a disk whose power goes at any of its syncs, again and again.

Whatever happened: what `synced` had reached is there, to the byte; drops up to `checkpointed` stay
dropped; what was not synced is there, whole, or not there; nothing is damaged, for no bit rots
here; rounds and boots only grow, and the store says itself how far it was opened.
"""

import dataclasses
import random
from pathlib import Path

import pytest
from world.platter import Disks, Platter, PowerCut

from zdfs import checksum, limits
from zdfs.blockstore import LogStore
from zdfs.errors import NoSpace, StoreError
from zdfs.ids import BlockNo, Epoch, Ino, Name, Round, Slot, Token, Version

SEEDS = 25
LIVES = 8
STEPS = 40
SLOT = Slot(1)


def content(name: Name) -> bytes:
    """Bytes that no other name has."""
    return random.Random(repr(name)).randbytes(name.version.sequence * 37 % 1500)


class Model:
    """What must be there, may be there, must not."""

    def __init__(self) -> None:
        self.put: dict[Name, Round] = {}  # and the round it belongs to
        self.dropped: dict[Name, Round] = {}
        self.boot = 0
        self.round = Round(0)
        self.life = 0
        self.lives: dict[int, Round] = {0: Round(0)}

    def survive(self, store: LogStore, synced: Round, checkpointed: Round) -> None:
        """Compare with what was found, and take that for granted from now on."""
        assert store.boot > self.boot and store.opened_round >= synced, "acknowledged rounds lost"
        assert store.round > self.round, "a round's number was used twice"
        self.boot, self.round = store.boot, store.round
        there = {name for name, _ in store.scan(None, 100_000)}
        for name in there:
            assert name in self.put or name in self.dropped, f"{name} came from nowhere"
            found = store.read(name)
            assert found is not None and bytes(found[1]) == content(name)
        for name, round_ in self.put.items():
            assert name in there or round_ > synced, f"{name} of {round_} lost; synced {synced}"
        for name, round_ in self.dropped.items():
            assert name not in there or round_ > checkpointed, f"{name} was dropped and is back"
        assert self.lives[store.state.life] >= 0
        newest = max(life for life, round_ in self.lives.items() if round_ <= synced)
        assert store.state.life >= newest, "a state that was synced is forgotten"
        self.put = dict.fromkeys(there, Round(0))
        self.dropped = {}
        self.life = store.state.life
        self.lives = {self.life: Round(0)}


class Run:
    """One disk, many boots."""

    def __init__(self, platter: Platter, seed: int):
        self.platter, self.random, self.model = platter, random.Random(seed), Model()
        self.names = 0
        self.store: LogStore | None = None
        self.synced = self.checkpointed = Round(0)

    def life(self) -> None:
        """From a boot to the next power cut or kill, in the middle of anything."""
        try:
            self.platter.fatal = self.platter.syncs + self.random.randint(1, 60)
            self.store = store = LogStore(self.platter.path, SLOT, thread=False)
            self.model.survive(store, self.synced, self.checkpointed)
            self.synced, self.checkpointed = store.synced, store.checkpointed
            for _ in range(STEPS):
                self.random.choice([self.put, self.put, self.put, self.act])(store)
                self.synced = max(self.synced, store.synced)
                self.checkpointed = max(self.checkpointed, store.checkpointed)
            power = self.random.random() < 0.8
        except PowerCut:
            power = True
        except StoreError:
            power = self.random.random() < 0.5
        self.platter.fatal = 0
        self.end(power)

    def end(self, power: bool) -> None:
        """Let go of the files without a word, as a process that is gone; perhaps the power, too."""
        if self.store is not None:
            self.store.abandon()
            self.store = None
        self.platter.broken = self.platter.full = False
        if power:
            self.platter.cut(self.random)

    def put(self, store: LogStore) -> None:
        """A new version."""
        self.names += 1
        name = Name(Ino(1 + self.names % 7), BlockNo(0), Version(Token(1), self.names))
        data = content(name)
        self.model.put[name] = store.round
        try:
            store.append(name, checksum.seal(name, data), Epoch(1), SLOT, data)
        except NoSpace:
            del self.model.put[name]

    def act(self, store: LogStore) -> None:
        """Anything else."""
        self.random.choice([
            store.end_round, store.end_round, store.end_round, store.sync, store.sync,
            store.checkpoint, self.drop, self.compact, self.state, self.trouble,
        ])()  # fmt: skip
        store.end_round()

    def drop(self) -> None:
        """Some versions are let go."""
        assert self.store is not None
        names = self.random.sample(sorted(self.model.put), len(self.model.put) // 2)
        self.store.drop(names)
        for name in names:
            del self.model.put[name]
            self.model.dropped[name] = self.store.round

    def compact(self) -> None:
        """Move what lives in a mostly dead segment."""
        assert self.store is not None
        while self.store.compact(1000) and self.random.random() < 0.8:
            self.store.end_round()

    def state(self) -> None:
        """Another life."""
        assert self.store is not None
        self.model.life += 1
        self.model.lives[self.model.life] = self.store.round
        self.store.set_state(dataclasses.replace(self.store.state, life=self.model.life))

    def trouble(self) -> None:
        """EIO from now on, rarely; a disk that is full, or has room again."""
        if self.random.random() < 0.1:
            self.platter.broken = True
        self.platter.full = not self.platter.full


@pytest.mark.parametrize("number", range(SEEDS))
def test_nothing_acknowledged_is_lost(
    number: int, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SEGMENT_BYTES", 4096)  # many segments: each is full soon
    disks = Disks()
    with disks.spinning():
        run = Run(disks.platter(tmp_path / "d"), seed + number)
        try:
            for _ in range(LIVES):
                run.life()
        finally:
            run.platter.forget()
