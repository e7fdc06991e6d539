"""torch.randperm without torch: the same permutations from the same seeds."""

from __future__ import annotations

import numpy as np

from schemas.errors import InputError

# torch switches to 64-bit draws from this length on (aten/src/ATen/native/TensorFactories.cpp, randperm_cpu).
LONGEST = (2**32 - 1) // 20


class TorchRandom:
    """The state of a torch CPU generator after `manual_seed(seed)`, as far as `randperm` uses it.

    torch's CPU generator is the 32-bit Mersenne Twister seeded by `init_genrand` with the low 32 bits of the seed
    (ATen/core/MT19937RNGEngine.h); numpy's RandomState yields the same stream and is frozen by NEP 19.
    """

    def __init__(self, seed: int):
        self._stream = np.random.RandomState(seed & 0xFFFFFFFF)

    def randperm(self, n: int) -> np.ndarray:
        """The next `torch.randperm(n)` of this generator, int64 of shape (n,). Raises InputError beyond 214 million."""
        if n >= LONGEST:
            raise InputError(f"a torch permutation of {n} rows is not reproduced; the longest is {LONGEST - 1}")
        permutation = list(range(n))
        if n > 1:
            draws = self._stream.randint(0, 2**32, size=n - 1, dtype=np.uint32)
            # Fisher-Yates from the front: position i is swapped with i + draw % (n - i).
            partners = np.arange(n - 1) + draws % np.arange(n, 1, -1)
            for position, partner in enumerate(partners.tolist()):
                permutation[position], permutation[partner] = permutation[partner], permutation[position]
        return np.asarray(permutation, np.int64)
