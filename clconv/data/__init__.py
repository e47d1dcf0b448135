"""Data sets, batches, augmentation.

open_dataset finds out what a path holds; a Loader turns a Dataset into batches.
"""

from clconv.data.dataset import ArrayDataset, Dataset, Subset, split
from clconv.data.loader import Batch, Loader
from clconv.data.transform import Augmentation, Normalization

__all__ = [
    "ArrayDataset",
    "Augmentation",
    "Batch",
    "Dataset",
    "Loader",
    "Normalization",
    "Subset",
    "split",
]
