"""The writer of all outputs."""

import errno
import io
import os
import signal
import stat
import subprocess
import sys
import threading

import pytest

from einsearch_cli.errors import OutputError
from einsearch_cli.export.placing import place
from einsearch_cli.files import open_atomically, refuse_unwritable, write_atomically, write_error

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes device nodes")


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


def test_missing_folders_are_made_when_the_file_is_written(tmp_path):
    refuse_unwritable(tmp_path / "a" / "b" / "c.txt")
    assert os.listdir(tmp_path) == []
    write_atomically(tmp_path / "a" / "b" / "c.txt", "text")
    place(tmp_path / "d" / "e.bin", lambda draft: draft.write_bytes(b"data"))
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "text"
    assert (tmp_path / "d" / "e.bin").read_bytes() == b"data"


@AS_ROOT
@pytest.mark.parametrize(("kind", "minor"), [(stat.S_IFCHR, 3), (stat.S_IFBLK, 250)], ids=["null", "disk"])
def test_a_device_stays_a_device(tmp_path, kind, minor):
    node = tmp_path / "node"
    os.mknod(node, kind | 0o600, os.makedev(1, minor))  # RAM disk 250 does not exist
    with pytest.raises(OutputError, match=r"node': it is a (block )?device, a plain file is needed"):
        place(node, lambda draft: draft.write_bytes(b"data"))
    if kind == stat.S_IFCHR:
        write_atomically(node, "text")
    else:
        with pytest.raises(OutputError, match="it is a block device, a plain file is needed"):
            write_atomically(node, "text")
    assert stat.S_IFMT(node.lstat().st_mode) == kind
    assert os.listdir(tmp_path) == ["node"]


def test_a_pipe_stays_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OutputError, match="pipe': it is a pipe, a plain file is needed"):
        place(pipe, lambda draft: draft.write_bytes(b"data"))
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_atomically(pipe, "text")
    reader.join()
    assert read == [b"text"]
    assert stat.S_ISFIFO(pipe.lstat().st_mode)


def test_files_of_other_writers_follow_links(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "real.bin").write_bytes(b"old")
    (tmp_path / "link.bin").symlink_to("far/real.bin")
    place(tmp_path / "link.bin", lambda draft: draft.write_bytes(b"new"))
    assert (tmp_path / "link.bin").is_symlink()
    assert (tmp_path / "far" / "real.bin").read_bytes() == b"new"
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputError, match=r"cannot write '.*loop'"):
        place(tmp_path / "loop", lambda draft: draft.write_bytes(b"new"))


def test_standard_output_is_written_on_not_replaced(tmp_path):
    """With `>>` to a file, its contents stay."""
    log = tmp_path / "log"
    log.write_text("before\n")
    script = "from einsearch_cli.files import write_atomically; write_atomically('/dev/stdout', 'text\\n')"
    with log.open("a") as file:
        subprocess.run([sys.executable, "-c", script], stdout=file, check=True)
    piped = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True)
    assert log.read_text() == "before\ntext\n"
    assert piped.stdout == b"text\n"
    assert os.listdir(tmp_path) == ["log"]


def test_drafts_of_dead_writers_go_and_those_of_others_stay(tmp_path):
    script = (
        "import sys, os, signal; from einsearch_cli.files import open_atomically, draft_folder; from pathlib import Path\n"
        "with open_atomically(sys.argv[1] + '/big.jsonl') as file, draft_folder(Path(sys.argv[1]) / 'run') as draft:\n"
        "    file.write(b'x' * 99); (draft / 'weights').write_text('w'); print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        write_atomically(tmp_path / "other.txt", "text")  # a writer while another one lives
        assert len(os.listdir(tmp_path)) == 3
        writer.send_signal(signal.SIGKILL)
    (tmp_path / ".mine.tmp").write_text("of another program")
    assert len(os.listdir(tmp_path)) == 4
    write_atomically(tmp_path / "other.txt", "text")
    assert sorted(os.listdir(tmp_path)) == [".mine.tmp", "other.txt"]


def test_two_writers_of_one_file_at_once(tmp_path):
    """The writer that ends last wins; both files are whole, and neither takes the other's draft for a dead one."""
    with open_atomically(tmp_path / "a") as first, open_atomically(tmp_path / "a") as second:
        first.write(b"first")
        second.write(b"second")
    assert (tmp_path / "a").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("error", "reason", "remedy"),
    [
        (OSError(errno.ENOSPC, "No space"), "No space left on device", "make room and run the same command again"),
        (OSError(errno.EDQUOT, "x"), "quota exceeded", "make room and run the same command again"),
        (OSError(errno.EROFS, "x"), "Read-only file system", "a file system that can be written"),
        (OSError(errno.EIO, "x"), "Input/output error", "check the disk"),
        (OSError(errno.EACCES, "x"), "Permission denied", "a folder that you may write to"),
        (RuntimeError("I/O error: bad (os error 28)"), "No space left on device", "make room"),
        (io.UnsupportedOperation("seek\nmore"), "seek", "a folder that you may write to"),
    ],
)
def test_every_refusal_of_the_system_has_its_remedy(error, reason, remedy):
    found = write_error("'a'", error)
    assert found.problem.startswith("cannot write 'a': ")
    assert reason in found.problem
    assert remedy in found.remedy
    assert "\n" not in found.problem


@pytest.mark.parametrize("name", ["link.yaml", "folder/x.yaml"])
def test_a_link_into_a_missing_folder_makes_none(tmp_path, name):
    (tmp_path / "link.yaml").symlink_to("far/away/x.yaml")
    (tmp_path / "folder").symlink_to("far/away")
    with pytest.raises(OutputError, match=r"the folder is missing that the link .* leads to"):
        write_atomically(tmp_path / name, "text")
    assert not (tmp_path / "far").exists()


def test_a_link_to_a_new_file_is_followed(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "link.yaml").symlink_to("far/x.yaml")
    write_atomically(tmp_path / "link.yaml", "text")
    assert (tmp_path / "far" / "x.yaml").read_text() == "text"
