"""X-Robots-Tag, TDM headers and robots.txt."""

from __future__ import annotations

import asyncio
import time

import pytest
from multidict import CIMultiDict
from yarl import URL

from pipelines.download.config import HEADER_DIRECTIVES
from pipelines.download.optout import check_headers, opt_out_directive, robots_rules, robots_rules_without
from pipelines.download.robots import RobotsCache
from pipelines.download.statuses import DownloadStatus, Failure
from tests.pipelines.download.images import jpeg
from tests.pipelines.download.web import Web, body


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        (["noai"], "noai"),
        (["NoImageAI"], "noimageai"),
        (["nofollow, noindex"], "noindex"),
        (["none"], "noindex"),
        (["noml"], "noml"),
        (["nofollow", "noimageindex"], "noimageindex"),
        (["lavabeam: noai"], "noai"),
        (["LavaBeam : nofollow, noai"], "noai"),
        (["otherbot: nofollow, lavabeam: noai"], "noai"),
        (["unavailable_after: 25 Jun 2027 15:00:00 PST, noindex"], "noindex"),
        (["unavailable_after: Fri, 25 Jun 2027 15:00:00 GMT, noai"], "noai"),
        (["*: noai"], "noai"),
        (["otherbot: nofollow, *: noindex"], "noindex"),
        (["max-snippet: 10, noai"], "noai"),
        (["otherbot: noai, noindex"], None),
        (["all", "nofollow", ""], None),
        (["max-image-preview: large"], None),
        ([], None),
    ],
)
def test_x_robots_tag(tags, found):
    assert opt_out_directive(tags, "lavabeam", HEADER_DIRECTIVES) == found


def test_tdm_reservation():
    check_headers(CIMultiDict({"tdm-reservation": "0"}), "lavabeam", HEADER_DIRECTIVES)
    check_headers(CIMultiDict({"tdm-reservation": "1"}), "lavabeam", HEADER_DIRECTIVES, respect_tdm=False)
    with pytest.raises(Failure, match="opt_out_tdm"):
        check_headers(CIMultiDict({"tdm-reservation": "1"}), "lavabeam", HEADER_DIRECTIVES)
    with pytest.raises(Failure, match="opt_out_tdm"):
        headers = CIMultiDict([("TDM-Reservation", "0"), ("TDM-Reservation", " 1 ")])
        check_headers(headers, "lavabeam", HEADER_DIRECTIVES)


def test_robots_rules_speak_to_our_token():
    rules = robots_rules("User-agent: *\nDisallow:\n\nUser-agent: LavaBeam\nDisallow: /a\nCrawl-delay: 900", "lavabeam")
    rules.check("http://x.test/b.jpg", "lavabeam")
    assert rules.crawl_delay == 10
    with pytest.raises(Failure, match="robots_disallowed"):
        rules.check("http://x.test/a.jpg", "lavabeam")


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("User-agent: lavabeam/1.0\nDisallow: /", False),
        ("USER-AGENT : LavaBeam # us\nDISALLOW : /", False),
        ("User-agent: GPTBot\nUser-agent: lavabeam\nDisallow: /", False),
        ("User-agent:*\rDisallow:/", False),
        ("User-agent: GPTBot\nDisallow: /", True),
        ("User-agent: *\nDisallow: /\nUser-agent: lavabeam\nAllow: /", True),
        ("User-agent: *\nDisallow: /\nUser-agent: lava\nAllow: /", False),
        ("User-agent: lava\nDisallow: /", True),
    ],
)
def test_which_robots_rules_are_ours(text, allowed):
    rules = robots_rules(text, "lavabeam")
    if allowed:
        return rules.check("http://x.test/a.jpg", "lavabeam")
    with pytest.raises(Failure, match="robots_disallowed"):
        rules.check("http://x.test/a.jpg", "lavabeam")
    return None


def test_a_robots_file_of_many_robots_with_many_rules_costs_no_more_than_its_size(monkeypatch):
    from protego import Protego

    given = []
    monkeypatch.setattr(Protego, "parse", lambda text: given.append(text) or Protego())
    robots = "\n".join(f"User-agent: bot{number}" for number in range(1000)) + "\nUser-agent: *\nDisallow: /\n"
    robots_rules(robots, "lavabeam")
    assert set(given[0].splitlines()) == {"User-agent: (another)", "User-agent: *", "Disallow: /"}


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (DownloadStatus.not_found, None),
        (DownloadStatus.forbidden, None),
        (DownloadStatus.client_error, None),
        (DownloadStatus.too_many_redirects, None),
        (DownloadStatus.server_error, "robots_unreachable"),
        (DownloadStatus.rate_limited, "robots_unreachable"),
        (DownloadStatus.timeout, "robots_unreachable"),
        (DownloadStatus.dns, "dns"),
        (DownloadStatus.connection, "connection"),
        (DownloadStatus.private_address, "private_address"),
    ],
)
def test_robots_that_cannot_be_had(status, outcome):
    rules = robots_rules_without(Failure(status, "detail"))
    if outcome is None:
        rules.check("http://x.test/a", "lavabeam")
    else:
        with pytest.raises(Failure) as caught:
            rules.check("http://x.test/a", "lavabeam")
        assert caught.value.status == outcome


def test_robots_are_asked_for_once_per_origin_and_not_at_all_when_not_wanted(download):
    with Web({"*": body(jpeg()), "/robots.txt": body(b"")}) as web, Web({"*": body(jpeg())}) as other:
        urls = [web.url(f"/{number}.jpg") for number in range(100)]
        assert {row["download_status"] for row in download([*urls, other.url("/a.jpg")])} == {"ok"}
        assert web.hits["/robots.txt"] == other.hits["/robots.txt"] == 1
        download(urls[:2], respect_robots_txt=False)
        assert web.hits["/robots.txt"] == 1


def test_a_redirect_target_is_asked_for_its_own_robots(download):
    with Web({"*": body(jpeg()), "/robots.txt": body(b"User-agent: lavabeam\nDisallow: /")}) as target:
        moved = body(b"", "302 Found", Location=target.url("/a.jpg"))
        with Web({"/a.jpg": moved}) as web:
            rows = download([web.url("/a.jpg")])
    assert rows[0]["download_status"] == "robots_disallowed"
    assert target.hits["/a.jpg"] == 0


def test_a_redirect_waits_for_its_turn_at_the_new_host(download):
    async def slow(request):
        await asyncio.sleep(0.02)
        await request.send(jpeg())

    target = Web({"*": slow, "/robots.txt": body(b"")})
    with target, Web({"/robots.txt": body(b"")}, host="0.0.0.0") as web:
        web.handlers["*"] = body(b"", "302 Found", Location=target.url("/picture.jpg"))
        urls = [web.url("/a.jpg", host=f"127.0.0.{number}") for number in range(2, 10)]
        options = {"allow_private_hosts": ["localhost", "127.0.0.0/8"], "retries": 0, "host_limit": 2}
        assert {row["download_status"] for row in download(urls, **options)} == {"ok"}
        assert target.most_at_a_time <= 2
        # A row keeps no place while it waits for the next one, nor while it asks for robots.txt.
        rows = download(urls[:2], **options | {"thread_count": 1})
    assert {row["download_status"] for row in rows} == {"ok"}


def test_the_host_that_says_too_many_is_the_one_that_rests(download):
    times = []

    async def picture(request):
        times.append(time.monotonic())
        if len(times) == 1:
            await request.send(b"", "429 Too Many Requests", Retry_After="0.5")
        else:
            await request.send(jpeg())

    target = Web({"*": picture, "/robots.txt": body(b"")})
    with target, Web({"/robots.txt": body(b"")}, host="0.0.0.0") as web:
        web.handlers["*"] = body(b"", "302 Found", Location=target.url("/picture.jpg"))
        urls = [web.url("/a.jpg", host=f"127.0.0.{number}") for number in range(2, 6)]
        rows = download(urls, allow_private_hosts=["localhost", "127.0.0.0/8"], host_limit=1)
    assert {row["download_status"] for row in rows} == {"ok"}
    assert len(times) == 5 and times[1] - times[0] >= 0.5


def test_robots_after_a_failure_that_passes(download):
    async def robots(request):
        if request.number == 1:
            await request.send(b"", "503 Busy")
        else:
            await request.send(b"User-agent: *\nDisallow: /no")

    with Web({"*": body(jpeg()), "/robots.txt": robots}) as web:
        rows = download([web.url("/no/a.jpg"), web.url("/yes/a.jpg")])
    assert [row["download_status"] for row in rows] == ["robots_disallowed", "ok"]


def test_a_byte_order_mark_hides_no_rules(download):
    with Web({"*": body(jpeg()), "/robots.txt": body(b"\xef\xbb\xbfUser-agent: *\nDisallow: /")}) as web:
        assert download([web.url("/a.jpg")])[0]["download_status"] == "robots_disallowed"


def test_a_robots_file_beyond_max_bytes_is_read_as_far_as_it_is_parsed(download):
    rules = b"User-agent: *\nDisallow: /no\n" + b"# padding\n" * 60_000
    with Web({"*": body(jpeg()), "/robots.txt": body(rules)}) as web:
        rows = download([web.url("/no/a.jpg"), web.url("/a.jpg")], max_bytes=100_000)
    assert [row["download_status"] for row in rows] == ["robots_disallowed", "ok"]


def test_robots_are_asked_for_again_after_a_day_and_sooner_after_a_failure(monkeypatch):
    async def scenario() -> list[float]:
        loop, asked, now = asyncio.get_running_loop(), [], 0.0
        monkeypatch.setattr(loop, "time", lambda: now)

        async def get(url):
            asked.append(now)
            if len(asked) == 1:
                raise Failure(DownloadStatus.timeout, "no answer in time")
            return b"User-agent: *\nDisallow: /no"

        cache = RobotsCache(get, "lavabeam")
        for hour in range(50):
            now = hour * 3600.0
            await cache.rules(URL("http://x.test/a.jpg"))
        return asked

    assert asyncio.run(scenario()) == [0, 3600, 26 * 3600]
