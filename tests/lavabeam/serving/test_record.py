"""What is asked on the page becomes rows that the other commands take."""

import asyncio
import errno
import fcntl
import json
from collections import Counter
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from lavabeam.cli.main import app
from lavabeam.serving.client import Answer
from lavabeam.serving.page.journal import JOURNAL, Journal
from lavabeam.serving.page.record import Recorder
from lavabeam.serving.page.session import Column, Picture, Session, Turn
from schemas.dataset import Dataset
from schemas.errors import InputError
from tests.pictures import colour, encoded
from tests.pipelines.tokenizer import write_tokenizer

SETTINGS = {"temperature": 0.2, "top_p": 0.7, "max_tokens": 512}


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "upload.png"
    path.write_bytes(encoded(colour()))
    return Picture(path=str(path))


@pytest.fixture
def recorder(tmp_path):
    made = Recorder(tmp_path / "talks", "http://127.0.0.1:8000")
    yield made
    made.close()


def answered(column, question, text, *pictures):
    turn = Turn(question, pictures, Answer(text, "stop", "chatcmpl-1", 7, 2))
    column.turns.append(turn)
    return turn


def statuses(folder):
    return {row["key"]: row["vote_status"] for row in Dataset.open(folder).take(range(len(Dataset.open(folder))))}


def test_an_answer_is_a_row_with_its_picture_and_its_vote(recorder, picture, tmp_path):
    column = Column("stage2")
    turn = answered(column, "What is this?", "a circle", picture)
    recorder.keep(column, turn, SETTINGS)
    turn.vote = 1
    recorder.voted(turn)
    recorder.close()
    row = Dataset.open(tmp_path / "talks")[0]
    (shown,) = Dataset.open(tmp_path / "talks-images").take([0])
    assert row["image_keys"] == [shown["key"]] == [shown["sha256"]]
    assert shown["image"]["bytes"] == encoded(colour())
    assert row["messages"] == [
        {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What is this?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "a circle"}]},
    ]
    assert (row["generator"]["model"], row["generator"]["output_tokens"]) == ("stage2", 2)
    assert json.loads(row["generator"]["parameters"]) == SETTINGS
    assert (row["status"], row["vote"], row["vote_status"]) == ("ok", 1, "ok")
    for name in ("talks", "talks-images"):
        assert Dataset.open(tmp_path / name).verify() == []


def test_of_a_conversation_the_row_with_all_of_it_stands(recorder, picture, tmp_path):
    """Also when it goes on after a commit, and when the same picture was stored before."""
    column = Column("stage2")
    first = answered(column, "What is this?", "a circle", picture)
    recorder.keep(column, first, SETTINGS)
    recorder._commit()
    second = answered(column, "Which colour?", "blue")
    recorder.keep(column, second, SETTINGS)
    other = answered(Column("stage1"), "What is this?", "a square", picture)
    recorder.keep(Column("stage1", [other]), other, SETTINGS)
    recorder.close()
    assert statuses(tmp_path / "talks") == {first.key: "continued", second.key: "ok", other.key: "ok"}
    assert len(Dataset.open(tmp_path / "talks-images")) == 1
    row = Dataset.open(tmp_path / "talks").take([1])[0]
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"] * 2


def test_a_vote_may_change_after_the_commit_and_an_answer_be_replaced(recorder, tmp_path):
    column = Column("stage2")
    disliked, replaced = answered(column, "Say a word.", "mud"), Turn("Say a word.", (), Answer("clay", "stop"))
    recorder.keep(Column("stage2", [disliked]), disliked, SETTINGS)
    recorder.keep(Column("stage2", [replaced]), replaced, SETTINGS)
    recorder._commit()
    assert set(statuses(tmp_path / "talks").values()) == {"ok"}
    disliked.vote = -1
    recorder.voted(disliked)
    recorder.replaced(replaced)
    recorder._commit()
    assert statuses(tmp_path / "talks") == {disliked.key: "disliked", replaced.key: "replaced"}
    disliked.vote = 0
    recorder.voted(disliked)
    recorder.close()
    assert statuses(tmp_path / "talks") == {disliked.key: "ok", replaced.key: "replaced"}
    assert len(Dataset.open(tmp_path / "talks").fragments) == 1


def test_a_vote_that_comes_before_its_answer_is_recorded_goes_along_with_it(recorder, tmp_path):
    column = Column("stage2")
    turn = answered(column, "What is this?", "a circle")
    turn.vote = -1
    recorder.voted(turn)
    recorder._commit()
    recorder.keep(column, turn, SETTINGS)
    recorder.close()
    assert statuses(tmp_path / "talks") == {turn.key: "disliked"}


def test_errors_and_answers_that_were_stopped_are_no_rows(recorder, tmp_path):
    column = Column("stage2")
    failed = Turn("What?", (), Answer("half an", ""), error="Stopped.")
    column.turns.append(failed)
    recorder.keep(column, answered(column, "What is this?", "a circle"), SETTINGS)
    recorder.replaced(failed)
    recorder.close()
    (row,) = Dataset.open(tmp_path / "talks").take([0])
    assert [part["text"] for message in row["messages"] for part in message["content"]] == ["What is this?", "a circle"]


def test_a_page_that_was_killed_loses_nothing_and_adds_nothing_twice(recorder, picture, tmp_path):
    column = Column("stage2")
    recorder.keep(column, answered(column, "What is this?", "a circle", picture), SETTINGS)
    with pytest.raises(InputError, match="another page records there"):
        Recorder(tmp_path / "talks", "http://127.0.0.1:8000")
    events = list(recorder._journal.events)
    recorder._commit()
    recorder._journal.close()  # as if it was killed between the commit and the emptying of the journal
    journal = Journal(tmp_path / "talks.incoming")
    journal.keep_picture(encoded(colour()))
    for event in events:
        journal.add(event)
    journal._file.write(b'{"event": "ans')
    journal.close()
    again = Recorder(tmp_path / "talks", "http://127.0.0.1:8000")
    again.close()
    recorder._journal = again._journal = Journal(tmp_path / "talks.incoming")
    assert len(Dataset.open(tmp_path / "talks")) == len(Dataset.open(tmp_path / "talks-images")) == 1


def test_a_page_on_which_nothing_was_asked_leaves_nothing(recorder, tmp_path):
    with pytest.raises(InputError, match="another page records there"):
        Recorder(tmp_path / "talks", "http://127.0.0.1:8000")
    recorder.close()
    recorder.close()
    assert list(tmp_path.iterdir()) == []


def test_answers_that_are_committed_leave_no_journal_and_others_do(recorder, picture, tmp_path, monkeypatch):
    column = Column("stage2")
    recorder.keep(column, answered(column, "What is this?", "a circle", picture), SETTINGS)
    recorder.close()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["talks", "talks-images"]
    waiting = Journal(tmp_path / "talks.incoming")
    waiting.add({"event": "answer", "key": "a"})
    waiting.close()
    again = Journal(tmp_path / "talks.incoming")
    assert again.events == [{"event": "answer", "key": "a"}]
    again.close()


def test_a_journal_that_another_page_removes_while_it_is_opened_is_opened_again(tmp_path, monkeypatch):
    """Else its lock would be on a file that nobody finds."""
    folder, opened = tmp_path / "talks.incoming", []
    lock = fcntl.flock

    def locked(file, how):
        opened.append(file)
        if len(opened) == 1:
            (folder / JOURNAL).unlink()
            folder.rmdir()
        return lock(file, how)

    monkeypatch.setattr(fcntl, "flock", locked)
    journal = Journal(folder)
    journal.add({"event": "vote"})
    journal.close()
    assert len(opened) == 2 and (folder / JOURNAL).read_text() == '{"event": "vote"}\n'


def test_a_picture_that_cannot_be_had_keeps_its_place(recorder, tmp_path):
    column = Column("stage2")
    guarded = Picture(url="http://127.0.0.1:9/a.png")
    recorder.keep(column, answered(column, "What is this?", "a circle", guarded), SETTINGS)
    recorder.close()
    (shown,) = Dataset.open(tmp_path / "talks-images").take([0])
    assert (shown["url"], shown["import_status"], shown["image"]) == (guarded.url, "no_image", None)
    assert "private_address" in shown["import_detail"]
    assert Dataset.open(tmp_path / "talks")[0]["image_keys"] == [shown["key"]]


def test_a_mix_takes_what_stands_and_likes_alone_if_asked(recorder, picture, tmp_path):
    column = Column("stage2")
    for number, question in enumerate(("What is this?", "Which colour?", "How large?")):
        turn = answered(column, question, "an answer", *([picture] if not number else []))
        recorder.keep(column, turn, SETTINGS)
    liked = answered(Column("stage1"), "What is this?", "a circle", picture)
    recorder.keep(Column("stage1", [liked]), liked, SETTINGS)
    liked.vote = 1
    recorder.voted(liked)
    recorder.close()
    write_tokenizer(tmp_path / "tokenizer")
    source = {"conversations": "talks", "images": "talks-images"}
    assert _mixed(tmp_path, source) == {"taken": 2, "continued": 2}
    assert _mixed(tmp_path, {**source, "where": {"vote": {"min": 1}}})["taken"] == 1
    assert _mixed(tmp_path, {**source, "where": {"vote_status": ["continued"]}})["taken"] == 2


def _mixed(folder, source):
    recipe = {"tokenizer": "tokenizer", "template": "chatml", "sources": {"asked": source}}
    image = {"mode": "pad", "image_size": 32, "patch_size": 8}
    (folder / "m.yaml").write_text(json.dumps({**recipe, "image": image}))
    name = f"mix-{len(list(folder.iterdir()))}"
    done = CliRunner().invoke(app, ["mix", str(folder / "m.yaml"), name, "--folder", str(folder), "--json"])
    assert done.exit_code == 0, done.output
    return Counter(json.loads(done.stdout)[0]["statuses"])


def test_show_and_verify_take_it(recorder, picture, tmp_path):
    column = Column("stage2")
    recorder.keep(column, answered(column, "What is this?", "a circle", picture), SETTINGS)
    recorder.close()
    for name in ("talks", "talks-images"):
        assert json.loads(CliRunner().invoke(app, ["verify", str(tmp_path / name), "--json"]).output)["problems"] == []
    shown = json.loads(CliRunner().invoke(app, ["show", str(tmp_path / "talks"), "--json"]).output)
    assert shown["rows"] == 1


def test_a_place_that_cannot_be_recorded_to_is_refused(recorder, tmp_path):
    column = Column("stage2")
    recorder.keep(column, answered(column, "What?", "This."), SETTINGS)
    recorder.close()
    (tmp_path / "talks").rename(tmp_path / "asked-images")
    with pytest.raises(InputError, match="is a dataset of conversations, expected images"):
        Recorder(tmp_path / "asked", "http://127.0.0.1:8000")
    with pytest.raises(InputError, match="expected a folder of this machine"):
        Recorder("gs://bucket/talks", "http://127.0.0.1:8000")


def test_an_event_that_the_disk_has_no_room_for_leaves_nothing(tmp_path):
    journal = Journal(tmp_path / "talks.incoming")
    file = journal._file

    class Full:
        """Takes half of what is written, once, and then no more."""

        def write(self, content):
            if file.tell() or len(content) < 10:
                raise OSError(errno.ENOSPC, "No space left on device")
            return file.write(content[: len(content) // 2])

        def __getattr__(self, name):
            return getattr(file, name)

    journal._file = Full()
    with pytest.raises(OSError, match="No space"):
        journal.add({"event": "answer", "key": "lost"})
    journal._file = file
    journal.add({"event": "answer", "key": "kept"})
    assert journal.events == [{"event": "answer", "key": "kept"}]
    file.close()
    assert Journal(tmp_path / "talks.incoming").events == [{"event": "answer", "key": "kept"}]


def test_a_vote_for_an_answer_that_is_not_there_is_none():
    pytest.importorskip("gradio", reason="Gradio is not installed (extra ui)")
    from lavabeam.serving.page.handlers import Handlers

    session = Session([Column("stage2")])
    for number, index in ((0, 0), (0, -1), (2, 7)):
        asyncio.run(Handlers(None, None).vote(session, number, SimpleNamespace(index=index, liked=True)))
    assert session.columns[0].turns == []
