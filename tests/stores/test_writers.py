"""Processes that commit to one dataset at once, or die between data and manifest, on each kind of store.

gs:// and s3:// are local stand-ins: `make test-stores`, in an environment with gcsfs, s3fs and moto.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.engine.runners import Runner
from pipelines.engine.work import run_step
from schemas import Dataset
from schemas.errors import StorageError
from schemas.store import Store
from schemas.writing import write_dataset
from tests.pipelines.engine.test_run import files, keys
from tests.pipelines.steps import Shout, ShoutConfig

ROOT = Path(__file__).parents[2]
REACHED = {
    "FSSPEC_GS_TOKEN": "anon",
    "FSSPEC_GCS_TOKEN": "anon",
    "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@pytest.fixture(params=["local", "gs", "s3"])
def place(request, tmp_path):
    """A folder for a dataset, and what processes need in their environment to reach it."""
    if request.param == "local":
        yield str(tmp_path / "d")
    else:
        yield from request.getfixturevalue(request.param)(tmp_path.name)


@pytest.fixture
def reached(monkeypatch):
    """Sets variables here, and for the processes that are started."""

    def reached(**variables):
        for name, value in {**REACHED, **variables}.items():
            monkeypatch.setenv(name, value)

    return reached


@pytest.fixture
def gs(reached):
    pytest.importorskip("gcsfs", reason="needs gcsfs: make test-stores")

    def made(name):
        import fsspec

        from tests.dataflow.buckets import Buckets, serve

        server = serve(Buckets())
        reached(STORAGE_EMULATOR_HOST=f"http://127.0.0.1:{server.server_address[1]}")
        fsspec.filesystem("gs").clear_instance_cache()
        yield f"gs://bucket/{name}/d"
        server.shutdown()

    return made


@pytest.fixture
def s3(reached):
    pytest.importorskip("s3fs", reason="needs s3fs and moto: make test-stores")
    moto = pytest.importorskip("moto.server", reason="needs s3fs and moto: make test-stores")

    def made(name):
        import fsspec

        server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        reached(AWS_ENDPOINT_URL=f"http://127.0.0.1:{server.get_host_and_port()[1]}")
        fsspec.filesystem("s3").clear_instance_cache()
        fsspec.filesystem("s3").makedirs("bucket", exist_ok=True)  # moto keeps them in this process
        yield f"s3://bucket/{name}/d"
        server.stop()

    return made


class Racer:
    def __init__(self, place, name):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.stores.racer", place, name],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def say(self, text):
        self.process.stdin.write(f"{text}\n")
        self.process.stdin.flush()

    def hear(self):
        return self.process.stdout.readline().strip()


def test_no_manifest_of_two_writers_is_lost(place, pytestconfig):
    """Their own columns are merged; of the one that both write, one is committed, and the other writer is told."""
    rounds = pytestconfig.getoption("--rounds", default=10)  # unknown where the whole suite runs
    write_dataset(place, "images", [keys(0, 3)])
    racers = [Racer(place, name) for name in ("a", "b")]
    try:
        assert [racer.hear() for racer in racers] == ["ready", "ready"]
        for number in range(rounds):
            for word, answers in ((str(number), ["planned"] * 2), ("go", None)):
                for racer in racers:
                    racer.say(word)
                heard = [racer.hear() for racer in racers]
                assert answers is None or heard == answers
            made = [json.loads(text) for text in heard]
            refused = [one["refused"] for one in made if "refused" in one]
            assert len(refused) == 1, made
            assert "start it again to work on the newest version" in refused[0]
            numbers = [one[kind] for one in made for kind in ("own", "both") if kind in one]
            assert sorted(numbers) == [2 + 3 * number + place for place in range(3)]
            (won,) = [name for name, one in zip("ab", made, strict=True) if "both" in one]
            now = Dataset.open(place)
            expected = {"a": f"a{number}", "b": f"b{number}", "both": f"both-{won}{number}"}
            assert {name: now[0][name] for name in expected} == expected
    finally:
        for racer in racers:
            racer.process.kill()
            racer.process.wait()
    names = [name for name in Store(place).list() if name.startswith("manifest-")]
    assert len(names) == 1 + 3 * rounds
    assert Dataset.open(place).verify() == []


def test_a_run_killed_between_data_and_manifest_left_nothing_to_readers_and_is_continued(place, tmp_path):
    for path in (place, str(tmp_path / "whole")):
        write_dataset(path, "images", [keys(0, 20), keys(20, 20)])
    code = (
        "import os, schemas.commit\n"
        "schemas.commit.put = lambda *_: os.kill(os.getpid(), 9)\n"
        "from tests.pipelines.steps import Shout, ShoutConfig; from pipelines.engine.runners import Runner\n"
        "from pipelines.engine.work import run_step\n"
        f"run_step(Shout(ShoutConfig()), {place!r}, Runner('local', 1))"
    )
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, env={**os.environ})
    assert killed.returncode == -9
    before = Dataset.open(place)
    assert before.manifest.number == 1
    assert "loud" not in before.columns
    finished = [name for name, _ in before.store.walk("fragments") if "/shout." in name]
    assert len(finished) == 2
    run_step(Shout(ShoutConfig()), place, Runner("local", 1))
    run_step(Shout(ShoutConfig()), tmp_path / "whole", Runner("local", 1))
    assert files(place) == files(str(tmp_path / "whole"))
    log = b"".join(before.store.read(name) for name, _ in before.store.walk("runs") if name.endswith(".jsonl"))
    assert log.count(b'"reused": true') == 2
    assert Dataset.open(place).verify() == []


def test_a_store_that_only_looks_before_it_writes_is_refused_before_any_work(tmp_path):
    """fsspec's own `create` is no promise: `reference`, `ftp` and many others look first."""
    store = Store("ftp://127.0.0.1:9/d")
    with pytest.raises(StorageError, match=r"ftp:// is not known to refuse a second writer .* gs:// or s3://"):
        store.put_if_absent("manifest-000001.json", b"{}")


def test_a_server_that_ignores_the_precondition_is_refused(s3, monkeypatch):
    import s3fs

    put = s3fs.S3FileSystem._call_s3

    async def careless(self, method, *arguments, **given):
        given.pop("IfNoneMatch", None)
        return await put(self, method, *arguments, **given)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", careless)
    for place in s3("careless"):
        with pytest.raises(StorageError, match="this S3 server ignores If-None-Match"):
            Store(place).check_exclusive()
        assert Store(place).list("leases") == []
