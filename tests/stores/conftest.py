"""How long writers race: few rounds in the whole suite, `--rounds 200` in `make test-stores`."""


def pytest_addoption(parser):
    parser.addoption("--rounds", type=int, default=10, help="rounds of two writers at once")
