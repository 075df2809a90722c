"""The public names of the package."""

import subprocess
import sys

import pytest

import twinwire


def test_every_public_name_is_there() -> None:
    for name in twinwire.__all__:
        assert getattr(twinwire, name) is not None
    assert set(twinwire.__all__) <= set(dir(twinwire))


def test_another_name_is_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Hubb'"):
        _ = twinwire.Hubb


def test_the_package_loads_its_parts_when_they_are_asked_for() -> None:
    code = "import sys, twinwire; assert 'twinwire.hub' not in sys.modules; twinwire.Hub"
    subprocess.run([sys.executable, "-c", code], check=True)
