"""One process at a time, with processes."""

import errno
import os
import signal
import socket
import threading

import pytest
import torch

import entk


class Holder:
    """A process that holds a folder until it is killed, or this one has ended."""

    def __init__(self, folder):
        inside, tell = os.pipe()
        ended, self.alive = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self.alive)
                with entk.exclusive(folder):
                    os.write(tell, b"1")
                    os.read(ended, 1)
            finally:
                os._exit(0)
        for end in (tell, ended):
            os.close(end)
        assert os.read(inside, 1) == b"1"
        os.close(inside)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.alive)


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """A folder that another process holds, and that process; killed in the last test."""
    folder = tmp_path_factory.mktemp("held") / "k.h5.parts"
    return folder, Holder(folder)


def test_the_second_hears_who_the_first_is(held):
    folder, process = held
    who = rf"k\.h5\.parts is being written by another process \({process.pid} on "
    with pytest.raises(entk.LockedError, match=who + socket.gethostname()):
        with entk.exclusive(folder):
            pass


def test_write_ntk_waits_for_nobody_and_reads_without(held):
    folder, process = held
    path, model, x = folder.with_suffix(""), torch.nn.Linear(3, 2), torch.ones(2, 3)
    with pytest.raises(entk.LockedError, match=f"{process.pid} on"):
        entk.write_ntk(path, model, x)
    with pytest.raises(entk.LockedError):
        entk.write_ntk(path, model, x, resume=False)
    entk.write_ntk(path.with_name("other.h5"), model, x).close()
    path.with_name("other.h5").rename(path)  # it is finished now, whoever holds the parts
    (folder / "shard-000000-000000-0.h5").touch()  # the holder's, who may be writing it
    with entk.write_ntk(path, model, x) as file:
        assert file.shape == (4, 4)
    (folder / "shard-000000-000000-0.h5").unlink()
    path.unlink()


def test_a_killed_holder_holds_nothing(held):
    folder, process = held
    process.kill()
    assert (folder / ".lock").exists()
    with entk.exclusive(folder):
        assert str(os.getpid()) in (folder / ".lock").read_text()
    assert not folder.exists()


def test_what_lies_in_the_folder_stays_and_it_is_free_again(tmp_path):
    (tmp_path / "a").write_text("a")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), entk.exclusive(tmp_path):
            raise ZeroDivisionError
        assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_never_two_at_once(tmp_path):
    """Threads that enter and leave, each making and removing the folder: at most one inside."""
    folder, inside, most, entered, refused = tmp_path / "f", [], [0], [0], [0]

    def work():
        for _ in range(200):
            try:
                with entk.exclusive(folder):
                    inside.append(1)
                    most[0], entered[0] = max(most[0], len(inside)), entered[0] + 1
                    (folder / "x").touch()
                    (folder / "x").unlink()
                    inside.pop()
            except entk.LockedError:
                refused[0] += 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert most == [1]
    assert entered[0] + refused[0] == 800
    assert entered[0] > 0


def test_a_disk_without_locks_is_warned_of(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.warns(UserWarning, match="its disk knows no locks; see to it that one process"):
        with entk.exclusive(tmp_path):
            pass


@pytest.mark.timeout(30)  # a link into nowhere was waited for for ever
@pytest.mark.parametrize("name", ["file", "file/k", "link", "link/k"])
def test_a_folder_that_cannot_be_is_named(tmp_path, name):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    words = rf"{name} cannot be written to .*choose another"
    with pytest.raises(entk.KernelFileError, match=words), entk.exclusive(tmp_path / name):
        pass


def test_a_lock_that_is_a_link_is_not_written_through(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "k").mkdir()
    (tmp_path / "k" / ".lock").symlink_to(tmp_path / "mine")
    with pytest.raises(entk.KernelFileError, match="k cannot be written to"):
        with entk.exclusive(tmp_path / "k"):
            pass
    assert (tmp_path / "mine").read_text() == "mine"
