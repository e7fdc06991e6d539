"""`mix`: conversations and their pictures in, one self-contained `samples` dataset out, with exact token counts.

Policy lives here and only here: which statuses, kinds, duplicates and weights make it into a training set. Changing
it recomputes nothing else.
"""

from pipelines.mix.lock import Lock, read_lock
from pipelines.mix.recipe import MixRecipe, MixSource, load_mix
from pipelines.mix.run import preview_mix, run_mix

__all__ = ["Lock", "MixRecipe", "MixSource", "load_mix", "preview_mix", "read_lock", "run_mix"]
