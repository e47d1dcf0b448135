from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

def normalize(x: NDArray[np.uint8], out: NDArray[np.float32], table: NDArray[np.float32]) -> None: ...
def augment_normalize(
    x: NDArray[np.uint8],
    out: NDArray[np.float32],
    table: NDArray[np.float32],
    indices: NDArray[np.int64],
    seed: int,
    epoch: int,
    *,
    crop_pad: int = 0,
    reflect: bool = False,
    flip: bool = False,
    jitter: Sequence[float] = (0.0, 0.0, 0.0),
) -> None: ...
def random_keys(out: NDArray[np.uint64], seed: int, epoch: int, stream: int) -> None: ...
def philox4x32(key: int, counter: Sequence[int]) -> tuple[int, int, int, int]: ...
