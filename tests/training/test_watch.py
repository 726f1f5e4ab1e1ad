"""The connections by which the loss of a process is noticed: who is let in, and what their end means."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest
import torch

from pgdlab.training import watch
from pgdlab.training.watch import DONE, SECRET, TOLD, Watch, lost, of_an_exchange, reached, received

KEY = bytes(range(SECRET))


@pytest.fixture
def three() -> dict[int, tuple[socket.socket, socket.socket]]:
    """Rank -> the first process's end, and the other's."""
    return {rank: socket.socketpair() for rank in (1, 2, 3)}


def links(some: dict[int, tuple[socket.socket, socket.socket]]) -> dict[int, socket.socket]:
    return {rank: ends[0] for rank, ends in some.items()}


def test_what_the_end_of_a_connection_means(three: dict[int, tuple[socket.socket, socket.socket]]) -> None:
    """Silence is life; who says that it is done is not missed when it goes; who goes without a word is lost."""
    own = links(three)
    assert lost(own) == (None, False)
    three[2][1].sendall(DONE)
    three[2][1].close()
    assert lost(own) == (None, False)
    assert own.keys() == {1, 3}
    three[3][1].close()
    assert lost(own) == (3, False)
    three[1][1].sendall(TOLD)
    del own[3]
    assert lost(own) == (1, True)


def test_a_connection_that_breaks_is_a_loss(three: dict[int, tuple[socket.socket, socket.socket]]) -> None:
    own = links({1: three[1]})
    three[1][0].shutdown(socket.SHUT_RD)
    assert lost(own) == (1, False)
    assert lost({}) == (None, False)


class Interrupted(socket.socket):
    """A connection that is looked at, by the thread that does, while something is being sent."""

    def sendall(self, data: Any, flags: int = 0) -> None:
        assert lost(self.links) == (None, False)
        super().sendall(data, flags)

    links: dict[int, socket.socket]


def test_two_that_end_at_once_take_leave_of_each_other(three: dict[int, tuple[socket.socket, socket.socket]]) -> None:
    """The other's word has come and is read while ours is being said."""
    own = Watch(lambda: "")
    own.links = {1: Interrupted(fileno=three[1][0].detach()), 2: three[2][0]}
    own.links[1].links = own.links  # type: ignore[attr-defined]
    three[1][1].sendall(DONE)
    own.part(DONE)
    assert own.links.keys() == {2}
    assert [three[rank][1].recv(2) for rank in (1, 2)] == [DONE, DONE]


def test_a_failed_exchange_is_told_from_other_faults() -> None:
    for error in (
        torch.distributed.DistBackendError("NCCL error"),
        RuntimeError(
            "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1"
        ),
    ):
        assert of_an_exchange(error)
    assert not of_an_exchange(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_strangers_are_not_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that says nothing, one that leaves, one with another secret; then the two that are awaited, in any order."""
    monkeypatch.setattr(watch, "GREETING", 0.2)
    door = socket.create_server(("127.0.0.1", 0))
    address = door.getsockname()
    silent, gone = socket.create_connection(address), socket.create_connection(address)
    gone.close()
    wrong = reached(address, KEY[::-1], 1)
    found: dict[int, socket.socket] = {}
    inside = threading.Thread(target=lambda: found.update(received(door, KEY, 2)))
    inside.start()
    mine = {rank: reached(address, KEY, rank)[0] for rank in (2, 1)}
    inside.join(10)
    assert sorted(found) == [1, 2]
    mine[2].sendall(b"two")
    assert found[2].recv(3) == b"two"
    assert wrong[0].recv(1) == b""
    for one in (silent, *wrong.values(), *mine.values(), *found.values()):
        one.close()


def test_processes_that_do_not_come_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PATIENCE", 0.2)
    door = socket.create_server(("127.0.0.1", 0))
    address = door.getsockname()
    assert received(door, KEY, 1) == {}
    assert reached(address, KEY, 1) == {}
