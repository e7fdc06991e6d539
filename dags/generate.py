"""### Pictures become conversations

Runs whenever `lavabeam_ingest` or `lavabeam_retry_failed` announces pictures. Pictures without a caption get one
(`caption_options`; null leaves that out), then the LLM is asked about every picture that it was not asked about before.

`max_cost` is what the dataset may cost in **all** its runs, in USD. When it is spent, the remaining rows have the
status `budget_exhausted`; they are made by the next run with a larger `max_cost`. The key is read from the worker's
environment (`OPENAI_API_KEY`, or what `api_key_env` in `generate_options` names), never from a parameter.
"""

from _lavabeam import caption, generate
from _lavabeam_airflow import CONVERSATIONS, IMAGES, LLM_POOL, announce, command, settings_of_dag
from airflow.sdk import chain, dag

PARAMS = ("folder", "images", "conversations", "caption_options", "generate_options", "max_cost")
RUNNING = ("runner", "workers", "beam_options")


@dag("lavabeam_generate", schedule=[IMAGES], **settings_of_dag(__doc__, *PARAMS, *RUNNING))
def conversations() -> None:
    asked = command(generate, pool=LLM_POOL, trigger_rule="none_failed")
    chain(command(caption, pool=LLM_POOL), asked, announce(CONVERSATIONS, "conversations"))


conversations()
