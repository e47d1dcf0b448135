"""Data sets, batches, augmentation.

`open_dataset` finds out what a path holds; a `Loader` turns a `Dataset` into batches for training.
"""

from clconv.data.cifar import Cifar10Dataset
from clconv.data.dataset import ArrayDataset, Dataset, Subset, check_labels, check_seed, split
from clconv.data.detect import open_dataset
from clconv.data.folder import ImageFolder, split_folders
from clconv.data.idx import IdxDataset, mnist, read_idx
from clconv.data.image import open_picture, read_image
from clconv.data.loader import Batch, Loader
from clconv.data.preprocess import Preprocessing, preprocessing
from clconv.data.transform import Augmentation, Normalization

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
