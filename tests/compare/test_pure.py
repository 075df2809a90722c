"""What decides does no I/O."""

import pytest

from tests.client.test_pure import DOES_IO
from tests.test_house import SRC, imports


@pytest.mark.parametrize("name", ["speak", "figures", "verdict", "plots", "page"])
def test_what_decides_imports_nothing_that_does(name: str) -> None:
    code = (SRC / "twinwire" / "compare" / f"{name}.py").read_text()
    origins = {origin for _, origin, _ in imports(code, f"twinwire.compare.{name}")}
    assert not {origin.partition(".")[0] for origin in origins} & DOES_IO
