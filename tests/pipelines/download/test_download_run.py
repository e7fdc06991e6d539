"""The step in a dataset: order, columns, retries across runs, limits across threads, kills."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.dedupe import Dedupe, DedupeConfig
from pipelines.download import Download, DownloadConfig
from pipelines.engine.imports import run_import
from pipelines.engine.runners import Runner
from pipelines.engine.work import run_step
from pipelines.importers.image_folder import ImageFolder, ImageFolderConfig
from pipelines.importers.url_list import UrlList, UrlListConfig
from schemas import Dataset
from schemas.errors import InputError
from schemas.records import BASE, STORED_IMAGE
from schemas.standing import Standing, Use
from schemas.writing import write_dataset
from tests.pipelines.download.images import encoded, jpeg, scene
from tests.pipelines.download.web import Request, Web, body

ROOT = Path(__file__).parents[3]
OPTIONS = {
    "allow_private_hosts": ["localhost"],
    "retries": 0,
    "respect_robots_txt": False,
    "decode_threads": 1,
    "timeout": 120,  # a busy machine is no slow server
    "deadline": 240,
}


def photos(path: Path, urls: list[str], rows: int = 100) -> str:
    parts = [urls[start : start + rows] for start in range(0, len(urls), rows)]
    tables = [
        pa.Table.from_pylist([{"key": url.rsplit("/", 1)[-1], "url": url} for url in part], BASE["images"])
        for part in parts
    ]
    write_dataset(path, "images", tables)
    return str(path)


def step(**options) -> Download:
    return Download(DownloadConfig(**OPTIONS | options))


def of_number(request: Request) -> bytes:
    """A picture that only this path has."""
    number = int(request.path.strip("/").split(".")[0])
    return PICTURE + number.to_bytes(4, "big")


PICTURE = jpeg(64, 48)


async def numbered(request: Request) -> None:
    await request.send(of_number(request))


async def shuffled(request: Request) -> None:
    await asyncio.sleep(random.random() * 0.05)
    await request.send(of_number(request))


def test_rows_keep_their_order_whatever_order_the_answers_come_in(tmp_path):
    with Web({"*": shuffled}) as web:
        dataset = photos(tmp_path / "photos", [web.url(f"/{number}.jpg") for number in range(300)])
        summary = run_step(step(), dataset, Runner("local", 2))
    assert summary.statuses == {"ok": 300}
    numbers = [int.from_bytes(row["image"]["bytes"][-4:], "big") for row in Dataset.open(dataset).take(range(300))]
    assert numbers == list(range(300))


def test_limits_hold_across_the_fragments_of_a_process(tmp_path):
    async def slow(request: Request) -> None:
        for _ in range(500):  # 5 s: a busy machine may take that long to send three requests
            await asyncio.sleep(0.01)
            if web.most_at_a_time >= 3:
                break
        await request.send(PICTURE)

    with Web({"*": slow}) as web:
        dataset = photos(tmp_path / "photos", [web.url(f"/{number}.jpg") for number in range(60)], rows=10)
        run_step(step(host_limit=3), dataset, Runner("local", 4))
    assert web.most_at_a_time == 3


def test_retry_makes_only_what_may_pass_and_leaves_other_rows_as_they_are(tmp_path):
    broken = True

    async def sometimes(request: Request) -> None:
        if broken and int(request.path[1:-4]) % 3 == 0:
            await request.send(b"", "503 Service Unavailable")
        else:
            await numbered(request)

    with Web({"*": sometimes, "/7.jpg": body(b"", "404 Not Found")}) as web:
        dataset = photos(tmp_path / "photos", [web.url(f"/{number}.jpg") for number in range(90)], rows=30)
        first = run_step(step(), dataset, Runner("local", 1))
        assert first.statuses == {"ok": 59, "server_error": 30, "not_found": 1}
        again = run_step(step(), dataset, Runner("local", 1), retry="transient")
        assert again.statuses == first.statuses
        broken = False
        last = run_step(step(), dataset, Runner("local", 1), retry="transient")
        assert last.statuses == {"ok": 89, "not_found": 1}
        assert run_step(step(), dataset, Runner("local", 1), retry="transient").made == 0
    assert {hits for path, hits in web.hits.items() if int(path[1:-4]) % 3} == {1}
    assert {hits for path, hits in web.hits.items() if not int(path[1:-4]) % 3} == {3}
    rows = Dataset.open(dataset).take(range(90), ["image", "key"])
    numbers = [int.from_bytes(row["image"]["bytes"][-4:], "big") if row["image"] else 7 for row in rows]
    assert numbers == list(range(90))


def test_the_same_answers_give_the_same_files(tmp_path):
    handlers = {"*": shuffled, "/5.jpg": body(b"", "500 Oops"), "/6.jpg": body(b"<html>"), "/7.jpg": body(PICTURE[:99])}
    made = []
    with Web(handlers) as web:
        for name in ("one", "two"):
            dataset = photos(tmp_path / name, [web.url(f"/{number}.jpg") for number in range(150)], rows=70)
            run_step(step(retries=int(name == "two"), retry_wait=0), dataset, Runner("local", 2))
            made.append([f.entry.files["download"].sha256 for f in Dataset.open(dataset).fragments])
    assert made[0] == made[1]


def test_the_manifest_counts_statuses_by_host(tmp_path):
    with Web({"*": numbered, "/3.jpg": body(b"", "404 Not Found")}) as web:
        urls = [web.url(f"/{number}.jpg") for number in range(20)] + ["http://10.0.0.1/a.jpg", "http://10.0.0.2/b.jpg"]
        urls += [f"http://host{number}.invalid:0/c.jpg" for number in range(12)]
        dataset = photos(tmp_path / "photos", urls, rows=40)
        run_step(step(), dataset, Runner("local", 1))
    groups = Dataset.open(dataset).manifest.groups("download")
    assert groups["localhost"] == {"ok": 19, "not_found": 1}
    assert groups["address"] == {"private_address": 2}
    assert groups["other"] == {"bad_url": 4}
    assert sum(sum(statuses.values()) for statuses in groups.values()) == len(urls)


def test_hashes_are_computed_and_verified(download):
    import hashlib

    good, png = jpeg(), encoded(scene(), "PNG")
    with Web({"/a": body(good), "/b": body(png)}) as web:
        md5 = hashlib.md5(good).hexdigest()
        rows = download(
            [web.url("/a"), web.url("/b"), web.url("/a")],
            {"md5_of_list": [md5.upper(), md5, None]},
            compute_hash="md5",
            verify_hash=("md5_of_list", "md5"),
            skip_reencode=False,
        )
    assert [row["download_status"] for row in rows] == ["ok", "hash_mismatch", "hash_mismatch"]
    assert (rows[0]["md5"], rows[0]["sha256"]) == (md5, hashlib.sha256(good).hexdigest())


def test_a_hash_is_not_verified_against_a_column_of_the_steps_own():
    with pytest.raises(
        InputError, match=r"'md5' is a column that download writes itself.*--extra '\{hash_of_list: md5\}'"
    ):
        Download(DownloadConfig(compute_hash="md5", verify_hash=("md5", "md5")))


def test_pictures_that_came_with_an_import_are_not_hidden(tmp_path):
    rows = [{"key": "a", "url": None, "image": {"bytes": PICTURE, "path": "a.jpg"}}]
    table = pa.Table.from_pylist(rows, pa.schema([*BASE["images"], STORED_IMAGE[0]]))
    write_dataset(tmp_path / "photos", "images", [table])
    with pytest.raises(
        InputError, match="its pictures came with the import, and the columns of download would hide them"
    ):
        run_step(step(), tmp_path / "photos", Runner("local", 1))
    assert Dataset.open(tmp_path / "photos")[0]["image"]["bytes"] == PICTURE


@pytest.mark.parametrize("order", ["list first", "folder first"])
def test_pictures_of_a_folder_stay_beside_those_of_a_list(tmp_path, order):
    """Whichever source is appended: the list's rows are fetched, and the folder's are as they came."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "own.jpg").write_bytes(own := jpeg(120, 100))
    (tmp_path / "files" / "cut.jpg").write_bytes(own[:300])
    with Web({"/1.jpg": numbered, "/2.jpg": body(b"", "404 Not Found")}) as web:
        (tmp_path / "urls.txt").write_text(f"{web.url('/1.jpg')}\n{web.url('/2.jpg')}\n")
        listed = UrlList(UrlListConfig(path=str(tmp_path / "urls.txt")))
        sources = [listed, ImageFolder(ImageFolderConfig(path=str(tmp_path / "files")))]
        for importer in sources if order == "list first" else reversed(sources):
            run_import(importer, tmp_path / "photos", Runner("local", 1), "append")
        summary = run_step(step(), tmp_path / "photos", Runner("local", 1))
        assert (summary.made, summary.statuses) == (1, {"ok": 1, "not_found": 1})
        assert run_step(step(), tmp_path / "photos", Runner("local", 1), retry="not_found").made == 1
        assert run_step(step(), tmp_path / "photos", Runner("local", 1)).made == 0
    dataset = Dataset.open(tmp_path / "photos")
    standing = Standing.of(dataset, Use(pictures=True))
    reasons = [reason for part in dataset.fragments for reason in standing.of_fragment(part).to_pylist()]
    kept = [row["image"] and row["image"]["bytes"] for row in dataset.take(range(4), ["image"])]
    of_list, of_folder = slice(0, 2), slice(2, 4)
    if order == "folder first":
        of_list, of_folder = of_folder, of_list
    assert (reasons[of_folder], kept[of_folder]) == (["import=undecodable", None], [None, own])
    assert (reasons[of_list], kept[of_list][1]) == ([None, "download=not_found"], None)
    run_step(Dedupe(DedupeConfig()), tmp_path / "photos", Runner("local", 1))
    assert Dataset.open(tmp_path / "photos").manifest.statuses()["dedupe"] == {"no_image": 2, "ok": 2}


def test_a_defect_of_ours_costs_one_row(download, monkeypatch):
    from pipelines.download import client

    def explode(body, *_):
        raise RuntimeError("a defect")

    with Web({"/a.jpg": body(PICTURE)}) as web:
        monkeypatch.setattr(client, "_judge", explode)
        rows = download([web.url("/a.jpg"), None])
    assert [(row["download_status"], row["download_detail"]) for row in rows] == [
        ("error", "defect: RuntimeError"),
        ("no_url", "the url is empty"),
    ]


@pytest.mark.parametrize(
    ("url", "group"),
    [
        ("https://i.cdn.example.com/a.jpg", "example.com"),
        ("http://images.bbc.co.uk/a.jpg", "bbc.co.uk"),
        ("http://t.co/a", "t.co"),
        ("http://10.0.0.1/a", "address"),
        ("http://localhost:80/a", "localhost"),
        ("nonsense", "none"),
        (None, "none"),
    ],
)
def test_host_class(url, group):
    from pipelines.download.hostclass import host_class

    assert host_class(url) == group


KILLED_RUN = """
import sys, json
from pipelines.download import Download, DownloadConfig
from pipelines.engine.work import run_step
from pipelines.engine.runners import Runner
if __name__ == "__main__":
    run_step(Download(DownloadConfig(**json.loads(sys.argv[2]))), sys.argv[1], Runner("local", 2))
"""


def test_killed_runs_lose_nothing_and_fetch_only_running_fragments_twice(tmp_path):
    urls, rows, kills = 600, 50, 3
    with Web({"*": numbered}) as web:
        dataset = photos(tmp_path / "photos", [web.url(f"/{number}.jpg") for number in range(urls)], rows)
        options = json.dumps(OPTIONS | {"host_limit": 16})
        for kill in range(kills + 1):
            run = subprocess.Popen(
                [sys.executable, "-c", KILLED_RUN, dataset, options], cwd=ROOT, env=os.environ | {"PYTHONPATH": "."}
            )
            # A moment is a number of requests served, so that slow machines are killed in the middle as well.
            goal = random.Random(kill).randint(20, 150) + sum(web.hits.values())
            while kill < kills and run.poll() is None and sum(web.hits.values()) < goal:
                time.sleep(0.002)
            if kill < kills:
                run.send_signal(signal.SIGKILL)
            assert run.wait(120) in (0, -signal.SIGKILL)
    assert Dataset.open(dataset).manifest.statuses()["download"] == {"ok": urls}
    kept = Dataset.open(dataset).take(range(urls), ["image"])
    assert [int.from_bytes(row["image"]["bytes"][-4:], "big") for row in kept] == list(range(urls))
    repeated = Counter(int(path[1:-4]) // rows for path, hits in web.hits.items() for _ in range(hits - 1))
    assert len(repeated) <= 2 * kills, "two fragments run at a time"
    assert max(web.hits.values()) <= kills + 1


def test_the_shared_loop_ends_with_its_last_user():
    from pipelines.download.loop import SharedLoop

    shared = SharedLoop()
    first, second = shared.acquire(), shared.acquire()
    assert first is second
    shared.release()
    assert asyncio.run_coroutine_threadsafe(asyncio.sleep(0, "alive"), first).result(5) == "alive"
    shared.release()
    assert first.is_closed()
    assert not [thread for thread in threading.enumerate() if thread.name == "lavabeam-loop"]
