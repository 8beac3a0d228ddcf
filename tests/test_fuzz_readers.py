"""Mutated files are loaded, or refused as each reader promises, in time and in little memory; see `make fuzz`."""

import sys

import pytest
from fuzz_formats import READERS
from fuzz_readers import campaign

INPUTS = 60
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured in /proc")


@pytest.mark.parametrize("name", READERS)
def test_a_mutated_file_is_loaded_or_refused_as_is_promised(name):
    if name in ("text", "tokenizer", "tokens"):
        pytest.importorskip("tokenizers")
    if "safetensors" in name:
        pytest.importorskip("safetensors")
    counts, _, failures = campaign(name, seed=1, inputs=INPUTS)
    assert not failures, failures[0].what
    assert counts["refused"] + counts["loaded"] == INPUTS
