"""What every benchmark says of itself, and names and protocols that there are not."""

import pytest

from lavabeam.evaluation.registry import OURS, open_benchmark
from lavabeam.evaluation.run import open_checked
from schemas.errors import InputError


@pytest.mark.parametrize("name", OURS)
def test_every_benchmark_says_what_it_is(name):
    benchmark = open_benchmark(name)
    assert benchmark.name == name and benchmark.title and benchmark.source
    assert set(benchmark.tokens) == set(benchmark.protocols)


def test_a_protocol_and_a_name_that_there_are_not():
    with pytest.raises(InputError, match="Did you mean pope"):
        open_checked("popee", "llava")
    with pytest.raises(InputError, match="MMBench has protocol llava here, not lmms-eval"):
        open_checked("mmbench", "lmms-eval")
