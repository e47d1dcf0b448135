"""Files as they come: damaged ones are refused by name, what is replaced keeps its place and permissions."""

import errno
import os

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import clconv as cc
from clconv.data import open_dataset
from clconv.errors import DataError, ModelFileError
from clconv.files import replacing, write_atomically
from clconv.io.model_file import read_arrays


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A file, its arrays and its texts."""
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    with cc.Net("INPUT 8x8x3 -> CONV 3x3x4 -> RELU -> FC 5") as net:
        net.metadata["classes"] = list("abcde")
        net.save(path)
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118  # no dictionary


@pytest.mark.parametrize(
    "key, text, message",
    [
        ("clconv.metadata", "{", "clconv.metadata is not JSON: Expecting property"),
        ("clconv.metadata", "[]", "clconv.metadata is not an object in JSON but list"),
        ("clconv.training", "null", "clconv.training is not an object in JSON but NoneType"),
        ("clconv.metadata", '{"normalization": {"mean": "a"}}', "its normalization is none: mean='a'"),
        ("clconv.metadata", '{"normalization": {"median": 1}}', "its normalization is none: .*'median'"),
        ("clconv", "[" * 100_000, "not a network description: maximum recursion"),
    ],
)
def test_damaged_texts_are_refused(model, tmp_path, key, text, message):
    arrays, texts = model
    path = tmp_path / "m.safetensors"
    save_file(arrays, path, {**texts, key: text})
    with pytest.raises(ModelFileError, match=rf"m\.safetensors: .*{message}"):
        cc.load(path)


def test_a_normalization_that_is_none_of_ours_stays_a_remark(model, tmp_path):
    arrays, texts = model
    save_file(arrays, tmp_path / "m.safetensors", {**texts, "clconv.metadata": '{"normalization": "imagenet"}'})
    with cc.load(tmp_path / "m.safetensors") as net:
        assert net.normalization is None and net.metadata == {"normalization": "imagenet"}


def archive(path, at=None, flips=0xFF, **arrays):
    """A compressed archive, perhaps with a byte changed: at a place, or (text, offset behind it) to look for."""
    np.savez_compressed(path, **arrays)
    content = bytearray(path.read_bytes())
    for place in at or ():
        content[place if isinstance(place, int) else content.index(place[0]) + place[1]] ^= flips
    path.write_bytes(content)
    return path


ENCRYPTED = [6, (b"PK\x01\x02", 8)]  # flags of a member, there and in the directory
SQUEEZED = [(b"PK\x01\x02", 10)]  # its method of compression


@pytest.mark.parametrize("at, flips, message", [(ENCRYPTED, 1, "encrypted"), (SQUEEZED, 0x6B, "not supported")])
def test_archives_that_cannot_be_unpacked(tmp_path, at, flips, message):
    path = archive(tmp_path / "w.npz", at, flips, x=np.zeros((2, 4, 4, 3), np.uint8), y=np.arange(2))
    with pytest.raises(ModelFileError, match=rf"w\.npz: not a readable NumPy archive: .*{message}"):
        read_arrays(path)
    with pytest.raises(DataError, match=rf"w\.npz: cannot be read: .*{message}"):
        open_dataset(path)


def test_every_damaged_byte_of_an_archive_is_refused_or_harmless(tmp_path):
    weights = np.random.default_rng(0).standard_normal((12, 12)).astype(np.float32)
    size = archive(tmp_path / "w.npz", w=weights).stat().st_size
    refused = 0
    for place in range(0, size, 7):
        try:
            found = read_arrays(archive(tmp_path / "w.npz", [place], w=weights))
        except ModelFileError:
            refused += 1
        else:
            assert all(np.array_equal(each, weights) for each in found.values())
    assert refused > size // 14


def test_one_name_of_a_class(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.zeros((2, 8, 8, 3), np.uint8), y=np.zeros(2, int), classes="cat")
    assert open_dataset(tmp_path / "d.npz")[0].classes == ["cat"]


def test_what_is_replaced_keeps_its_permissions(tmp_path):
    path, mask = tmp_path / "a", os.umask(0o027)
    try:
        write_atomically(path, b"old")
        assert path.stat().st_mode & 0o777 == 0o640
        path.chmod(0o600)
        with replacing(path) as temporary:
            assert temporary.stat().st_mode & 0o077 == 0, "nobody else reads it meanwhile, either"
            temporary.write_bytes(b"new")
    finally:
        os.umask(mask)
    assert path.read_bytes() == b"new" and path.stat().st_mode & 0o777 == 0o600


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "run").mkdir()
    link = tmp_path / "latest"
    link.symlink_to(tmp_path / "run" / "3")
    for content in (b"made", b"again"):
        write_atomically(link, content)
        assert link.is_symlink() and (tmp_path / "run" / "3").read_bytes() == content
    assert len(list((tmp_path / "run").iterdir())) == 1


def test_a_file_that_must_not_be_written_stays(tmp_path, monkeypatch):
    """Who may write the folder might replace it all the same."""
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"kept")
    path.chmod(0o444)
    monkeypatch.setattr(os, "access", lambda *_: False)  # as for people; the superuser may do anything
    with cc.Net("INPUT 4x4x1 -> FC 2") as net, pytest.raises(ModelFileError, match="Permission denied; what was there"):
        net.save(path)
    assert path.read_bytes() == b"kept"


def test_names_as_long_as_file_systems_allow(tmp_path):
    for name in ("a" * 255, "模" * 85):
        write_atomically(tmp_path / name, b"x")
    with pytest.raises(OSError) as error:
        write_atomically(tmp_path / ("a" * 256), b"x")
    assert error.value.errno == errno.ENAMETOOLONG
    assert len(list(tmp_path.iterdir())) == 2
