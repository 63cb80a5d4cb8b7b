import pytest


@pytest.fixture(autouse=True)
def always_one_thread(one_thread: None) -> None:
    """Runs are compared to the last bit."""
