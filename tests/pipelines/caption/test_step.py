"""The caption step keeps every row, in order, whatever the engine does and however it pulls pictures."""

from itertools import islice

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.caption import Caption as CaptionStep
from pipelines.caption import CaptionConfig
from pipelines.caption.engine import Caption, CaptionStatus, Identity
from pipelines.engine.step import Context
from pipelines.llm.answer import AnswerStatus
from schemas.config import parse
from schemas.errors import InputError


class Echo:
    source_version = None
    """Says each picture's bytes, pulling `ahead` pictures before it answers."""

    identity = Identity("echo", "mirror", "7")

    def __init__(self, ahead=1):
        self.ahead = ahead

    def captions(self, pictures):
        while batch := list(islice(pictures, self.ahead)):
            for picture in batch:
                if picture.data == b"bad":
                    yield Caption(CaptionStatus.failed, detail="cannot say")
                else:
                    yield Caption(AnswerStatus.ok, picture.data.decode())


def step_with(engine, **config):
    step = CaptionStep(CaptionConfig.model_validate({"engine": "labels", **config}))
    step._engine = engine
    return step


def batches_of(rows, sizes):
    schema = pa.schema(
        [
            ("key", pa.string()),
            ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("source", pa.string()),
        ]
    )
    batch, start = pa.RecordBatch.from_pylist(rows, schema=schema), 0
    for size in sizes:
        yield batch.slice(start, size)
        start += size
    if start < len(rows):
        yield batch.slice(start)


def row(key, data=b"x", source="web"):
    return {"key": key, "image": {"bytes": data, "path": None} if data is not None else None, "source": source}


def test_captions_name_their_writer_and_the_rest_says_why_not():
    rows = [row("a", b"words"), row("b", None), row("c", b"bad"), row("d", source="shop")]
    step = step_with(Echo(ahead=2), only={"source": ["web"]})
    found = [line for batch in step.process_fragment(batches_of(rows, [3])) for line in batch.to_pylist()]
    assert found[0] == {
        "caption": "words",
        "caption_engine": "echo",
        "caption_model": "mirror",
        "caption_version": "7",
        "caption_score": None,
        "caption_scorer": None,
        "caption_request_id": None,
        "caption_input_tokens": None,
        "caption_output_tokens": None,
        "caption_cost": None,
        "caption_status": "ok",
        "caption_detail": None,
    }
    assert [(line["caption"], line["caption_status"], line["caption_engine"]) for line in found[1:]] == [
        (None, "no_image", None),
        (None, "failed", None),
        (None, "not_asked", None),
    ]


@given(
    st.lists(st.sampled_from([b"one", b"two", b"bad", None, "other"]), max_size=25),
    st.lists(st.integers(1, 6), max_size=6),
    st.integers(1, 9),
)
def test_rows_in_are_rows_out_in_order(contents, sizes, ahead):
    rows = [row(str(n), b"x", "shop") if c == "other" else row(str(n), c) for n, c in enumerate(contents)]
    sizes = sizes if sum(sizes) <= len(rows) else []
    step = step_with(Echo(ahead), only={"source": ["web"]})
    given_sizes = [batch.num_rows for batch in batches_of(rows, sizes)]
    made = list(step.process_fragment(batches_of(rows, sizes)))
    assert [batch.num_rows for batch in made] == given_sizes
    expected = {b"bad": (None, "failed"), None: (None, "no_image"), "other": (None, "not_asked")}
    found = [(line["caption"], line["caption_status"]) for batch in made for line in batch.to_pylist()]
    assert found == [expected[c] if c in expected else (c.decode(), "ok") for c in contents]


def test_batches_leave_while_the_engine_is_still_working():
    pulled = []

    def watched():
        for number, batch in enumerate(batches_of([row(str(n)) for n in range(6)], [2, 2])):
            pulled.append(number)
            yield batch

    made = step_with(Echo()).process_fragment(watched())
    next(made)
    assert pulled == [0, 1]


def test_the_fingerprint_covers_the_weights_and_not_the_batch_size(monkeypatch):
    def of(**engine):
        return CaptionStep(CaptionConfig.model_validate({"engine": {"name": "labels", **engine}})).fingerprint({})

    first = of()
    assert of(batch_pictures=3) == first
    assert of(threshold=0.5) != first
    monkeypatch.setattr("pipelines.caption.labels.weights_version", lambda path: "other weights")
    assert of() != first


def test_columns_that_choose_rows_are_read():
    assert step_with(Echo(), only={"source": ["web"]}).reads == ("key", "image", "source")
    assert step_with(Echo()).reads == ("key", "image")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"engine": "lables"}, "'labels', 'transformers', 'endpoint'"),
        (
            {"engine": {"name": "labels", "treshold": 0.1}},
            "unknown key 'engine.labels.treshold'. Did you mean 'threshold'",
        ),
        ({"engine": "labels", "only": {"sauce": ["x"]}}, "only.sauce"),
    ],
)
def test_misspelt_configuration(config, message):
    with pytest.raises(InputError, match=message):
        parse(config, CaptionConfig, "recipe.yaml")


def test_setup_and_teardown_reach_the_engine(monkeypatch):
    seen = []

    class Recorder(Echo):
        def setup(self, context):
            seen.append(context.run)

        def close(self):
            seen.append("closed")

    monkeypatch.setattr("pipelines.caption.step.build_engine", lambda config: Recorder())
    step = CaptionStep(CaptionConfig.model_validate({"engine": "labels"}))
    step.setup(Context("run-1", "photos"))
    step.teardown()
    assert seen == ["run-1", "closed"]
