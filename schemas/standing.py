"""Standing: whether a row may be used, and why not. The single source for every step, the mix, report and show.

A step or importer declares which of its statuses leave a row out; the manifest keeps that with the step
(`StepEntry.statuses`). So a consumer knows no step by name, and a new curation step changes no consumer.

A reason is `<step>=<status>`, `image_missing` (a null or empty picture, whoever left it so), or the name that a step
gave to rows that are left out by choice (`dedupe`: `duplicate`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from schemas.dataset import Dataset, Fragment
from schemas.entries import StatusRule
from schemas.errors import InputError
from schemas.manifest import Manifest

OK = "ok"
NOT_OK = frozenset({"*"})
"""For declarations: every status but `ok` leaves a row out."""
EVERY_CHOICE = frozenset({"*"})
"""For consumers: no row is left out by choice."""
IMAGE_MISSING = "image_missing"
LEFT_OUT = "left_out"
"""The column with reasons in the batches that the engine gives to a step."""

_BEFORE_RULES = {
    "download": StatusRule(step="download", column="download_status", unusable=["*"]),
    "dedupe": StatusRule(
        step="dedupe", column="dedupe_status", by_choice={"copy": "duplicate", "near_copy": "duplicate"}
    ),
}
"""What steps of releases that wrote no rules would have declared, by their column files."""


@dataclass(frozen=True)
class Use:
    """What a consumer does with rows, as far as their standing depends on it."""

    pictures: bool = False
    """It needs the picture: a row without one is left out."""
    takes: frozenset[str] = frozenset()
    """Reasons by choice whose rows it takes, such as `duplicate`."""
    decides: frozenset[str] = frozenset()
    """Status columns that it judges by its own filters."""


@dataclass(frozen=True)
class Standing:
    """The rules of one dataset for one use. Small and picklable: it travels to workers."""

    rules: tuple[StatusRule, ...]
    pictures: bool = False

    @classmethod
    def of(cls, dataset: Dataset, use: Use | None = None, before: str | None = None) -> Standing:
        """The rules of `dataset` for `use` (by default: no pictures, no choice).

        `before`: only rules of column files that the dataset got before that one. A step that adds the file `before`
        asks so: what came later may have been made from it.
        """
        use = use or Use()
        names = dataset.manifest.names
        later = names[names.index(before) :] if before in names else [before]
        found = [rule for name, rule in status_rules(dataset).items() if name not in later]
        rules = (_for_use(rule, use) for rule in found if rule.column not in use.decides)
        return cls(tuple(rule for rule in rules if rule.unusable or rule.by_choice), use.pictures)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that reasons depend on; a fragment may lack some."""
        return (*(rule.column for rule in self.rules), *(("image",) if self.pictures else ()))

    @property
    def identity(self) -> list[dict[str, Any]]:
        """The rules that no release had before manifests kept them: what fingerprints cover besides the columns."""
        known = [*_BEFORE_RULES.values(), *(_base_rule(schema, step) for schema, step in _BASE_NAMES)]
        # Rules of imports that kept no rule for a status of their own, as development versions wrote them.
        known += [rule.model_copy(update={"usable": []}) for rule in known]
        return [rule.model_dump() for rule in map(_without_names, self.rules) if rule not in known]

    def columns_in(self, present: Collection[str]) -> list[str]:
        """Those of `columns` that are among `present`."""
        return [name for name in self.columns if name in present]

    def reasons(self, rows: pa.Table | pa.RecordBatch) -> pa.Array:
        """Why each row is left out, null where it may be used: string, shape (rows,).

        What cannot be used comes before what is left out by choice. A column that `rows` lack says nothing.
        """
        found = pa.nulls(rows.num_rows, pa.string())
        for rule in self.rules:
            if rule.unusable and rule.column in rows.schema.names:
                found = pc.coalesce(found, _unusable(rule, _flat(rows.column(rule.column))))
        if self.pictures and "image" in rows.schema.names:
            sizes = pc.binary_length(pc.struct_field(rows.column("image"), "bytes"))
            there = _flat(pc.fill_null(pc.greater(sizes, 0), False))
            found = pc.coalesce(found, pc.if_else(there, pa.scalar(None, pa.string()), IMAGE_MISSING))
        for rule in self.rules:
            if rule.by_choice and rule.column in rows.schema.names:
                found = pc.coalesce(found, _chosen(rule, _flat(rows.column(rule.column))))
        return found

    def of_fragment(self, fragment: Fragment) -> pa.Array:
        """`reasons` for all rows of a fragment; reads `columns` alone, and of pictures no bytes."""
        present = self.columns_in(fragment.owner)
        return self.reasons(fragment.read(present)) if present else pa.nulls(fragment.rows, pa.string())


def status_rules(dataset: Dataset) -> dict[str, StatusRule]:
    """Name of a column file -> its rule, for each that has a status column, in the dataset's order of files.

    Columns of older datasets whose manifest keeps no rule are found by the names that releases gave them.
    """
    manifest = dataset.manifest
    rules: dict[str, StatusRule] = {}
    for name in manifest.names:
        kept = manifest.steps[name].statuses if name in manifest.steps else None
        rule = kept or _before_rules(name, manifest, dataset.schema_name)
        if rule is not None:
            rules[name] = rule
    # A dataset that was written whole has the columns of steps in its base file.
    others = {name: rule for name, rule in _BEFORE_RULES.items() if rule.column in manifest.totals.columns}
    return {**others, **rules}


def joined(rules: Sequence[tuple[str, StatusRule]]) -> StatusRule:
    """One rule for rows of several sources, given (name, own rule) of each, at least one.

    Raises InputError where two of them give a status different meanings, so that no source's rows are judged by
    another one's rule.
    """
    (first, rule), *others = rules
    for source, one in others:
        if one.column != rule.column:
            raise InputError(
                f"{first} keeps its statuses in {rule.column!r}, {source} in {one.column!r}. A dataset has one column "
                "for them: import the source into a separate dataset."
            )
    for status in dict.fromkeys(status for _, one in rules for status in _named(one)):
        said = [(source, meant) for source, one in rules if (meant := _meaning(one, status)) is not None]
        other = next((pair for pair in said if pair[1] != said[0][1]), None)
        if other is not None:
            raise InputError(
                f"rows with the status {status!r} are {said[0][1]} in {said[0][0]}, and {other[1]} in {other[0]}. A "
                "dataset has one rule for them: import the source into a separate dataset."
            )
    return StatusRule(
        step=rule.step,
        column=rule.column,
        unusable=sorted({status for _, one in rules for status in one.unusable}),
        usable=sorted({status for _, one in rules for status in one.usable}),
        by_choice={status: reason for _, one in rules for status, reason in one.by_choice.items()},
    )


def reason_of(rule: StatusRule, status: str) -> str | None:
    """The reason why rows with `status` are left out, by choice or not; None where they may be used."""
    others = "*" in rule.unusable and status != OK and status not in rule.usable
    return f"{rule.step}={status}" if others or status in rule.unusable else rule.by_choice.get(status)


def detail_column(rule: StatusRule) -> str:
    """`download_status` -> `download_detail`, `status` -> `detail`."""
    return f"{rule.column.removesuffix('status')}detail"


def reasons_in(batch: pa.RecordBatch) -> list[str | None]:
    """The reasons that the engine put into a step's batch; none in batches that it did not make."""
    if LEFT_OUT not in batch.schema.names:
        return [None] * batch.num_rows
    return batch.column(LEFT_OUT).to_pylist()


_BASE_NAMES = (("images", "import"), ("conversations", "import"), ("conversations", "generate"))


def _base_rule(schema: str, step: str) -> StatusRule:
    column, usable = "import_status" if schema == "images" else "status", ["bad_value"] if step == "import" else []
    return StatusRule(step=step, column=column, unusable=["*"], usable=usable)


def rule_before(schema: str) -> StatusRule:
    """The rule of an import that kept none."""
    return _base_rule(schema, "import")


def _before_rules(name: str, manifest: Manifest, schema: str) -> StatusRule | None:
    if name != "base":
        return _BEFORE_RULES.get(name) or StatusRule(step=name, column=f"{name}_status")
    rule = _base_rule(schema, "generate" if schema == "conversations" and manifest.parents else "import")
    return rule if rule.column in manifest.totals.columns else None


def _for_use(rule: StatusRule, use: Use) -> StatusRule:
    if use.takes >= EVERY_CHOICE:
        return rule.model_copy(update={"by_choice": {}})
    left = {status: reason for status, reason in rule.by_choice.items() if reason not in use.takes}
    return rule if left == rule.by_choice else rule.model_copy(update={"by_choice": left})


def _named(rule: StatusRule) -> list[str]:
    """The statuses that a rule names, one by one."""
    return [*(status for status in rule.unusable if status != "*"), *rule.usable, *rule.by_choice]


def _meaning(rule: StatusRule, status: str) -> str | None:
    """What a source means by a status; None for one that it does not write: its rule names all others that it does."""
    if status not in _named(rule) and set(rule.unusable) != {"*"}:
        return None
    reason = reason_of(rule, status)
    return "usable" if reason is None else f"left out as {reason}"


def _without_names(rule: StatusRule) -> StatusRule:
    """What a rule decides: beside `*` it makes no difference which unusable statuses it names."""
    return rule.model_copy(update={"unusable": ["*"]}) if "*" in rule.unusable else rule


def _unusable(rule: StatusRule, statuses: pa.Array) -> pa.Array:
    if "*" in rule.unusable:
        accepted = pa.array([OK, *rule.usable], pa.string())
        refused = pc.and_(statuses.is_valid(), pc.invert(pc.is_in(statuses, value_set=accepted)))
    else:
        refused = pc.is_in(statuses, value_set=pa.array(rule.unusable, pa.string()))
    reasons = pc.binary_join_element_wise(rule.step, statuses, "=")
    return pc.if_else(refused, reasons, pa.scalar(None, pa.string()))


def _chosen(rule: StatusRule, statuses: pa.Array) -> pa.Array:
    indices = pc.index_in(statuses, value_set=pa.array(list(rule.by_choice), pa.string()))
    return pa.array(list(rule.by_choice.values()), pa.string()).take(indices)


def _flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
