"""Fixtures that all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of training data beside the checkout, or skip."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the shared training data is not beside this checkout")
    return SHARED_DATA
