"""A model in parts: joined once, into `base` of the run folder, before training starts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from schemas.chat import load_tokenizer
from schemas.errors import InputError
from schemas.fingerprint import fingerprint
from trainer.config import Recipe
from trainer.models.folder import ModelFolder
from trainer.preflight import Job
from trainer.runfolder import weights_digest, write_json
from trainer.sections import ModelConfig

BASE, DONE = "base", "assembled.json"


def assembled(job: Job) -> Recipe:
    """The job's recipe, starting from the joined checkpoint. One that was joined from the same parts is reused."""
    from trainer.models.assemble import assemble

    model = job.recipe.model
    check_selection(job)
    folder = Path(job.recipe.output) / BASE
    if not joined_before(job):
        shutil.rmtree(folder, ignore_errors=True)
        assemble(
            str(model.tower),
            str(model.llm),
            folder,
            rule=job.rule,
            template=job.template,
            tokenizer=model.tokenizer,
            select_layer=model.select_layer,
            projector_type=model.projector_type,
            projector=model.projector,
            seed=job.recipe.plan.seed,
        )
        write_json(folder / DONE, {"fingerprint": parts_fingerprint(job)})
    return job.recipe.model_copy(update={"model": ModelConfig(checkpoint=str(folder))})


def joined_before(job: Job) -> bool:
    """Whether the output folder holds a checkpoint that was joined from exactly these parts."""
    done = Path(job.recipe.output) / BASE / DONE
    if not done.is_file():
        return False
    return json.loads(done.read_text(encoding="utf-8")).get("fingerprint") == parts_fingerprint(job)


def planned_folder(job: Job) -> ModelFolder:
    """The folder that `assembled` would make, as far as the configuration goes: for a dry run."""
    from trainer.models.assemble import joined_config, projector_tensors
    from trainer.models.folder import colours, preprocessor
    from trainer.models.towers import tower_of

    model = job.recipe.model
    check_selection(job)
    tokenizer = load_tokenizer(model.tokenizer or str(model.llm))
    vocabulary = max(tokenizer.vocab_size, tokenizer.image_id + 1)
    arguments: tuple[Any, ...] = (model.select_layer, model.projector_type, tokenizer.image_id, vocabulary)
    config = joined_config(str(model.tower), str(model.llm), job.rule, *arguments)
    if model.projector is not None:
        projector_tensors(config, model.projector_type, model.projector, job.recipe.plan.seed)
    path = Path(job.recipe.output) / BASE
    seen = colours(preprocessor(Path(str(model.tower))), tower_of(config.vision_config.model_type, str(model.tower)))
    return ModelFolder(path, config.to_dict(), job.rule, *seen, job.template)


def check_selection(job: Job) -> None:
    """Raise InputError when recipe and mix select different tower features: their token counts would differ."""
    if job.recipe.model.select_feature != job.rule.select:
        raise InputError(
            f"model.select_feature is {job.recipe.model.select_feature!r}, {job.mix.path} was made with "
            f"select {job.rule.select!r}: their token counts differ. Change one of them."
        )


def parts_fingerprint(job: Job) -> str:
    """A hash of everything that the joined checkpoint depends on."""
    model = job.recipe.model
    paths = [model.tower, model.llm, model.tokenizer, model.projector]
    digests = [weights_digest(Path(path)) if path else None for path in paths]
    choices = [model.projector_type, model.select_layer, model.select_feature, job.recipe.plan.seed]
    return fingerprint(digests, choices, job.rule.to_dict(), job.template)
