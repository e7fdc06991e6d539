"""Two ranks that share every row compute the loss and gradients of one rank that has it alone."""

import multiprocessing

import pytest
import torch

from schemas.chat import ImageRule
from schemas.dataset import Dataset
from schemas.errors import InputError
from tests.trainer.conftest import RULE, sample_row, save_llm, write_mix
from tests.trainer.models.test_packed import ANYRES, SIZES, _row
from trainer import launch, preflight
from trainer.config import load_recipe
from trainer.evaluation import batched
from trainer.inputs.collate import Collator
from trainer.inputs.data import Samples
from trainer.inputs.device import Device
from trainer.inputs.heldout import evaluated
from trainer.inputs.steps import Part, supervised_tokens
from trainer.metrics.recorder import read_metrics
from trainer.models import ulysses, varlen
from trainer.models.assemble import assemble
from trainer.models.folder import ModelFolder

RULES: dict[str, ImageRule] = {"llava": RULE, "next": ANYRES}


@pytest.fixture(scope="module")
def samples(tiny, reader):
    """Rows with none, one and two pictures for each class of model, whose heads two ranks can share."""
    save_llm(tiny / "even", tiny / "tokenizer", reader.vocab_size, num_attention_heads=4, num_key_value_heads=2)
    made = {}
    for name, rule in RULES.items():
        path = assemble(tiny / "tower", tiny / "even", tiny / f"even-{name}", rule=rule, template="mistral")
        folder = ModelFolder.open(path).with_training(rule, "mistral")
        rows = [_row(number, sizes, rule, reader) for number, sizes in enumerate(SIZES)]
        mix = write_mix(tiny / f"shared-{name}", rows, reader, rule=rule)
        made[name] = Samples(Dataset.open(mix.path), folder, max_length=128)
    return made


def inputs_of(samples, rows, number=0, parts=1):
    rule = samples.folder.rule
    collator = Collator(rule, samples.folder.image_id, 0, packed=True, multiple=parts)
    batch = Part(number, parts).of(collator(samples.items(rows)))
    return Device(torch.device("cpu"), torch.float32, (0.5,) * 3, (0.5,) * 3).inputs(batch)


def load(folder):
    import transformers

    model = getattr(transformers, folder.model_class).from_pretrained(folder.path).train()
    how = {"use_reentrant": False}
    model.model.language_model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how)
    return model


def learnt(model, batch, total):
    """The sum of losses over `total` tokens, and the gradients it leaves."""
    loss = model(**batch, use_cache=False, num_items_in_batch=torch.tensor(float(total))).loss
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def share(number, samples, rows, total, store, results):
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=number, world_size=2)
    varlen.register()
    model = load(samples.folder)
    ulysses.share_rows(model, ulysses.own_group(2), varlen.NAME)
    batch = inputs_of(samples, rows, number, 2)
    found = supervised_tokens(batch)
    loss, gradients = learnt(model, batch, total)
    for tensor in (loss, *gradients.values()):  # the engine's mean over ranks, times their number
        dist.all_reduce(tensor)
    results.put((number, found, float(loss), {name: value.numpy() for name, value in gradients.items()}))
    dist.barrier()


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [1]])
@pytest.mark.parametrize("name", RULES)
def test_ranks_that_share_rows_learn_what_one_learns(name, rows, samples, tmp_path):
    """[1]: no picture; a blank one closes the row."""
    whole = inputs_of(samples[name], rows)
    total = supervised_tokens(whole)
    expected, gradients = learnt(load(samples[name].folder), whole, total)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    given = samples[name], rows, total, tmp_path / "store", results
    ranks = [context.Process(target=share, args=(number, *given)) for number in range(2)]
    for rank in ranks:
        rank.start()
    found = [results.get(timeout=120) for _ in ranks]
    for rank in ranks:
        rank.join()
    assert sum(one[1] for one in found) == total
    for _, _, loss, shared in found:
        assert loss == pytest.approx(float(expected), abs=1e-5)
        assert shared.keys() == gradients.keys()
        for parameter, gradient in gradients.items():
            torch.testing.assert_close(
                torch.from_numpy(shared[parameter]), gradient, atol=1e-5, rtol=1e-4, msg=parameter
            )


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_every_token_is_learnt_at_one_rank(samples, parts):
    whole = inputs_of(samples["llava"], [0, 1, 2, 3])
    length = -(-whole["input_ids"].shape[1] // parts)
    found = []
    for number in range(parts):
        own = inputs_of(samples["llava"], [0, 1, 2, 3], number, parts)
        assert own["input_ids"].shape[1] == length * parts
        assert int(own["cu_seq_lens_q"][-1]) == length * parts
        places, targets = own["logits_to_keep"] + number * length, own["shift_labels"][0]
        found += [(int(place), int(target)) for place, target in zip(places, targets, strict=True) if target != -100]
    expected = zip(whole["logits_to_keep"].tolist(), whole["shift_labels"][0].tolist(), strict=True)
    assert found == list(expected)


@pytest.fixture
def even_recipe(samples, tiny, recipe_file):
    return recipe_file(model={"checkpoint": str(tiny / "even-llava")}, steps=3)


def test_runs_with_shared_rows_have_the_losses_of_one_rank(even_recipe, forked, tmp_path):
    found = {}
    for name, processes, changes in (
        ("alone", 1, {}),
        ("deepspeed", 2, {"sequence_parallel": 2, "deepspeed.zero": 3, "data.workers": 1}),
        ("fsdp2", 2, {"sequence_parallel": 2, "engine": "fsdp2"}),
    ):
        launch.train(even_recipe, processes=processes, overrides={"output": str(tmp_path / name), **changes})
        found[name] = read_metrics(tmp_path / name / "metrics.jsonl")
    for name in ("deepspeed", "fsdp2"):
        for one, other in zip(found["alone"], found[name], strict=True):
            assert other["loss"] == pytest.approx(one["loss"], abs=1e-5)
            assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
            assert other["useful_tokens"] == one["useful_tokens"]


def test_held_out_rows_that_ranks_share_have_the_loss_of_one_rank(even_recipe, forked, tmp_path, monkeypatch):
    """Two ranks with each row, and two pairs of them, of which one gets an empty batch at the end."""
    monkeypatch.setattr("trainer.evaluation.TOKENS", 64)
    found = {}
    for name, processes, changes in (
        ("alone", 1, {}),
        ("pair", 2, {"sequence_parallel": 2}),
        ("pairs", 4, {"sequence_parallel": 2, "engine": "fsdp2"}),
    ):
        evaluate = {"every": 1, "split": 0.3, "keep_best": False}
        overrides = {"output": str(tmp_path / name), "evaluate": evaluate, "steps": 1, **changes}
        launch.train(even_recipe, processes=processes, overrides=overrides)
        (line,) = read_metrics(tmp_path / name / "metrics.jsonl", of="eval_loss")
        found[name] = line["eval_loss"]
    assert found["pair"] == pytest.approx(found["alone"], abs=1e-5)
    assert found["pairs"] == pytest.approx(found["alone"], abs=1e-5)
    job = preflight.check(load_recipe(even_recipe, {"evaluate": evaluate}), 1)
    rows = evaluated(job.mix, 0.3, 1000)
    assert len(batched(rows, job.mix.numpy("tokens")[rows])) % 2 == 1


def test_a_bad_row_that_ranks_share_counts_once(samples, reader, tiny, recipe_file, forked, tmp_path):
    rows = [sample_row(number, reader, "mistral", **({"tokens": 99} if number == 5 else {})) for number in range(24)]
    write_mix(tmp_path / "bad", rows, reader)
    path = recipe_file(model={"checkpoint": str(tiny / "even-llava")}, data__mix=str(tmp_path / "bad"), steps=3)
    launch.train(path, processes=2, overrides={"data.max_bad": 1, "sequence_parallel": 2})
    assert len(list((tmp_path / "run").glob("bad-rows-*.jsonl"))) == 1


@pytest.mark.parametrize(
    ("changes", "processes", "words"),
    [
        ({"sequence_parallel": 4}, 4, r"4 heads and 2 key-value heads evenly. Set one of 1, 2\."),
        ({"sequence_parallel": 2}, 3, "3 ranks do not make whole groups"),
        ({"sequence_parallel": 2, "plan.rows": "padded"}, 2, "leave `plan.rows` and `attention` at auto"),
        ({"sequence_parallel": 2, "attention": "sdpa"}, 2, "leave `plan.rows` and `attention` at auto"),
        ({"sequence_parallel": 2, "compile": True}, 2, "compile"),
    ],
)
def test_rows_that_cannot_be_shared_are_refused(even_recipe, changes, processes, words):
    with pytest.raises(InputError, match=words):
        preflight.check(load_recipe(even_recipe, changes), processes)
