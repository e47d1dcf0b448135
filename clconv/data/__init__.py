"""Data sets, batches, augmentation.

`open_dataset` finds out what a path holds; a `Loader` turns a `Dataset` into batches for training.
"""

from .cifar import Cifar10Dataset
from .dataset import ArrayDataset, Dataset, Subset, check_labels, check_seed, split
from .detect import open_dataset
from .folder import ImageFolder, split_folders
from .idx import IdxDataset, mnist, read_idx
from .image import open_picture, read_image
from .loader import Batch, Loader
from .preprocess import Preprocessing, preprocessing
from .transform import Augmentation, Normalization

__all__ = [
    "ArrayDataset",
    "Augmentation",
    "Batch",
    "Cifar10Dataset",
    "Dataset",
    "IdxDataset",
    "ImageFolder",
    "Loader",
    "Normalization",
    "Preprocessing",
    "Subset",
    "check_labels",
    "check_seed",
    "mnist",
    "open_dataset",
    "open_picture",
    "preprocessing",
    "read_idx",
    "read_image",
    "split",
    "split_folders",
]
