import os
import stat

import pytest

from einsearch_cli.errors import OutputError
from einsearch_cli.files import write_atomically


def test_file_replaces_the_old_one_and_keeps_its_mode(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(0o640)
    write_atomically(path, "new ω\n")
    assert path.read_bytes() == "new ω\n".encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_interrupted_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OutputError, match="No space left on device"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_link_stays_a_link(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    write_atomically(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


def test_what_is_not_a_plain_file_is_written_to_not_replaced():
    reader, terminal = os.openpty()
    try:
        write_atomically(os.ttyname(terminal), "{}")
        assert os.read(reader, 100) == b"{}"
        assert stat.S_ISCHR(os.stat(os.ttyname(terminal)).st_mode)
    finally:
        os.close(reader)
        os.close(terminal)


@pytest.mark.parametrize("name", ["a\0b", "x" * 300])
def test_impossible_names_are_refused(tmp_path, name):
    with pytest.raises(OutputError, match="cannot write"):
        write_atomically(str(tmp_path / name), "text")
    assert os.listdir(tmp_path) == []


def test_bytes_of_a_command_line_that_are_not_utf8_do_not_lose_the_file(tmp_path):
    write_atomically(tmp_path / "a.txt", "caf\udce9")
    assert (tmp_path / "a.txt").read_text() == "caf\\udce9"
