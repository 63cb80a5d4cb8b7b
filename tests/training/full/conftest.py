import pytest


@pytest.fixture(autouse=True)
def always_one_thread(one_thread: None) -> None:
    """Use one thread, as runs are compared to the last bit."""
