"""Clusters of texts, of embeddings, and rows of another dataset, side by side in the page."""

import pyarrow as pa

from pipelines.dedupe import DedupeText, TextConfig
from pipelines.engine.runners import Runner
from pipelines.engine.work import run_step
from pipelines.report import write_report
from pipelines.report.clusters import clusters_of_kinds
from schemas import Dataset
from schemas.records import BASE
from schemas.writing import write_dataset

TEXTS = ["a red bus <b>in</b> the rain", "A red bus b in b the rain", "two dogs", "a cat"]


def write(path, texts):
    rows = [{"key": f"k{number}", "alt_text": text} for number, text in enumerate(texts)]
    write_dataset(path, "images", [pa.Table.from_pylist(rows, BASE["images"])])
    return str(path)


def test_texts_and_what_repeats_another_dataset(tmp_path):
    other, own = write(tmp_path / "other", ["Two dogs!"]), write(tmp_path / "own", TEXTS)
    run_step(DedupeText(TextConfig()), other, Runner("local", 1))
    run_step(DedupeText(TextConfig(against=(other,))), own, Runner("local", 1))
    texts, others = clusters_of_kinds(Dataset.open(own), [0])
    assert (texts.title, texts.count) == ("Clusters of texts", 1)
    (members, rows) = texts.clusters[0]
    assert [(one.key, one.text, one.repeats) for one in members] == [("k0", TEXTS[0], ""), ("k1", TEXTS[1], "k0")]
    assert rows == 2
    assert [(one.key, one.repeats) for one in others.clusters[0][0]] == [("k2", "other:k0")]
    page = write_report([own], tmp_path / "report.html").read_text()
    assert "Clusters of texts: 1<" in page and "repeats other:k0" in page
    assert "a red bus &lt;b&gt;in&lt;/b&gt; the rain" in page
    assert clusters_of_kinds(Dataset.open(other), [0]) == []
