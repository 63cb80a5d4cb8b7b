"""What holds for all tests."""

import signal


def pytest_sessionstart() -> None:
    """Commands that tests start and interrupt inherit whether SIGINT is ignored, as it is in the processes of
    pytest-xdist, under nohup and in background jobs of a shell; there they would never stop."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
