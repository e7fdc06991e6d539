import fcntl
import json
import multiprocessing
from functools import partial

import pytest

from pipelines.llm.answer import read_response
from pipelines.llm.cache import AnswerCache, export_answers, import_answers, summary
from pipelines.llm.ledger import Caps, Ledger
from pipelines.llm.store import FILE, CacheStore, open_file
from pipelines.llm.stores import open_store
from schemas.errors import InputError

USAGE = {"prompt_tokens": 10, "completion_tokens": 4}


def raw(text, identity="r"):
    return json.dumps({"id": identity, "choices": [{"message": {"content": text}}], "usage": USAGE})


def fill(place, answers, cost=0.5):
    store = open_store(place)
    cache = AnswerCache(store)
    for key, text in answers.items():
        answer = read_response(raw(text))
        answer = type(answer)(**{**answer.__dict__, "cost": cost})
        store.atomically(partial(cache.put, key=key, names=("p", "m", "detail/1"), raw=raw(text), answer=answer))
    return store, cache


def test_an_answer_comes_back_with_usage_cost_and_a_mark(cache_place):
    store, cache = fill(cache_place, {"k": "A house."})
    answer = cache.get("k")
    assert (answer.text, answer.usage.input, answer.usage.output, answer.cost) == ("A house.", 10, 4, 0.5)
    assert answer.cached
    assert cache.get("other") is None
    store.close()


def test_the_first_answer_stays(cache_place):
    store, cache = fill(cache_place, {"k": "first"})
    second = {"raw": raw("second"), "answer": read_response(raw("second"))}
    store.atomically(partial(cache.put, key="k", names=("p", "m", ""), **second))
    assert cache.get("k").text == "first"
    store.close()


def test_the_summary_counts_hits_and_what_they_saved(cache_place):
    store, cache = fill(cache_place, {"a": "1", "b": "2"})
    for _ in range(3):
        cache.get("a")
    cache.write_hits()
    store.close()
    reported = summary(cache_place)
    assert (reported["answers"], reported["hits"], reported["cost"], reported["saved"]) == (2, 3, 1.0, 1.5)
    assert (reported["input_tokens"], reported["output_tokens"]) == (20, 8)
    assert reported["by_prompt"][0]["prompt"] == "detail/1"
    assert reported["file_bytes"] > 0


def test_a_cache_of_the_first_layout_is_taken_over(tmp_path):
    store, _ = fill(tmp_path, {"k": "A house."})
    store.connection.execute("ALTER TABLE claims DROP COLUMN prompt")
    store.connection.execute("INSERT INTO claims VALUES ('open', 'b', 'batch:x', 5, 0.1)")
    store.connection.execute("PRAGMA user_version=1")
    store.close()
    again = CacheStore(tmp_path)
    assert Ledger(again, "b", Caps()).claims_of("batch:x")["open"].prompt == ""
    assert AnswerCache(again).get("k").text == "A house."
    again.close()


def test_answers_can_be_carried_to_another_cache(cache_place, tmp_path):
    exported, back = tmp_path / "answers.jsonl", tmp_path / "back.jsonl"
    fill(tmp_path / "one", {"a": "ä", "b": "2", "C": "3"})[0].close()
    store, _ = fill(cache_place, {"b": "other"})
    store.close()
    assert export_answers(tmp_path / "one", exported) == 3
    assert import_answers(cache_place, exported) == 2
    store = open_store(cache_place)
    assert AnswerCache(store).get("a").text == "ä"
    assert AnswerCache(store).get("b").text == "other"
    store.close()
    assert export_answers(cache_place, back) == 3
    lines = [path.read_text().splitlines() for path in (exported, back)]
    assert [line for line in lines[0] if '"b"' not in line] == [line for line in lines[1] if '"b"' not in line]


def test_a_large_export_is_imported_in_portions(cache_place, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.llm.cache._ROWS_PER_WRITE", 7)
    fill(tmp_path / "one", {f"key-{number:02}": "x" for number in range(30)})[0].close()
    export_answers(tmp_path / "one", tmp_path / "answers.jsonl")
    assert import_answers(cache_place, tmp_path / "answers.jsonl") == 30
    assert import_answers(cache_place, tmp_path / "answers.jsonl") == 0


def test_a_broken_export_imports_nothing_and_names_the_line(tmp_path):
    fill(tmp_path / "one", {"a": "1", "b": "2"})[0].close()
    export_answers(tmp_path / "one", tmp_path / "answers.jsonl")
    with (tmp_path / "answers.jsonl").open("a") as file:
        file.write('{"key": "c"}\n')
    with pytest.raises(InputError, match=r"answers.jsonl, line 3: not an exported answer"):
        import_answers(tmp_path / "two", tmp_path / "answers.jsonl")
    assert summary(tmp_path / "two")["answers"] == 0


def test_a_missing_or_foreign_file_is_named(tmp_path):
    with pytest.raises(InputError, match="there is no answer cache here"):
        summary(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        import_answers(tmp_path, tmp_path / "none.jsonl")
    (tmp_path / FILE).write_bytes(b"this is no database, whatever it is called" * 100)
    with pytest.raises(InputError, match="file is not a database"):
        CacheStore(tmp_path)
    with pytest.raises(InputError, match="local disk"):
        CacheStore("gs://bucket/cache")


def test_a_newer_layout_is_refused(tmp_path):
    store = CacheStore(tmp_path)
    store.connection.execute("PRAGMA user_version=99")
    store.close()
    with pytest.raises(InputError, match="newer LavaBeam"):
        CacheStore(tmp_path)


def test_a_failed_transaction_leaves_nothing(cache_place):
    store, cache = fill(cache_place, {})

    def fail(connection):
        cache.put(connection, "k", ("p", "m", ""), raw("x"), read_response(raw("x")))
        raise KeyError

    with pytest.raises(KeyError):
        store.atomically(fail)
    assert cache.get("k") is None
    store.close()


def write_many(place, name):
    fill(place, {f"{name}-{number}": "x" for number in range(100)})[0].close()


def test_many_processes_write_at_once(cache_place):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=write_many, args=(cache_place, name)) for name in "abc"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert summary(cache_place)["answers"] == 300


def test_an_answer_that_cannot_be_read_is_none_and_makes_room(cache_place):
    store, cache = fill(cache_place, {"k": "A house."})
    store.connection.execute("UPDATE answers SET response = 'oops'")
    assert cache.get("k") is None
    assert not cache.holds("k")
    store.close()


@pytest.mark.parametrize("damage", ["middle", "all"])
def test_a_damaged_file_is_one_clear_error(damage, tmp_path):
    store, _ = fill(tmp_path, {f"key-{number:04}": "A house. " * 50 for number in range(200)})
    store.close()
    path = tmp_path / FILE
    content = bytearray(path.read_bytes())
    start = 0 if damage == "all" else 2 * 4096
    content[start:] = b"\xa5" * (len(content) - start)
    path.write_bytes(content)
    for use in (summary, lambda folder: export_answers(folder, tmp_path / "answers.jsonl"), use_all):
        with pytest.raises(InputError, match=r"answers.sqlite: the answer cache cannot be used .* move it away"):
            use(tmp_path)


def use_all(folder):
    store = CacheStore(folder)
    try:
        for number in range(200):
            AnswerCache(store).get(f"key-{number:04}")
    finally:
        store.close()


def test_places_that_cannot_be_used_are_told(tmp_path):
    store, _ = fill(tmp_path, {"k": "A house."})
    store.close()
    with pytest.raises(InputError, match="cannot be written"):
        export_answers(tmp_path, tmp_path / "nowhere" / "answers.jsonl")
    with pytest.raises(InputError, match="the folder cannot be created"):
        CacheStore(tmp_path / FILE / "deeper")


def _open_together(place, barrier, results):
    barrier.wait()
    try:
        open_store(place).close()
    except InputError as error:
        results.put(str(error))
    else:
        results.put("ok")


def test_sixty_processes_that_start_together_on_a_new_cache_all_work(cache_place):
    forked = multiprocessing.get_context("fork")
    barrier, results = forked.Barrier(60), forked.Queue()
    workers = [forked.Process(target=_open_together, args=(cache_place, barrier, results)) for _ in range(60)]
    for worker in workers:
        worker.start()
    assert [results.get(timeout=60) for _ in workers] == ["ok"] * 60
    for worker in workers:
        worker.join()


def test_only_one_process_at_a_time_changes_the_file_to_wal(tmp_path, monkeypatch):
    """The race itself shows in one start of hundreds: so the lock against it is looked at."""
    held = []

    def watched(path):
        with (tmp_path / "new" / "opening.lock").open() as other:
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(path)
        return open_file(path)

    monkeypatch.setattr("pipelines.llm.store.open_file", watched)
    CacheStore(tmp_path / "new").close()
    assert held == [tmp_path / "new" / FILE]
