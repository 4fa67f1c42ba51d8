"""
Would loading a checkpoint the usual way execute code that it names?

An answer from the names that its pickles hold, as far as a format can hold code at all.
What a pickle does with them, byte by byte, is another question: ``modelinspect scan``.

``torch.load`` has ``weights_only=True`` by default since torch 2.6. That unpickler refuses
each name that is not in its list, and every opcode that protocol 2 does not write (torch
2.13, ``torch/_weights_only_unpickler.py``, whose list is the one below).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

from modelinspect.dtypes import BY_TORCH_STORAGE
from modelinspect.tensors import Checkpoint, GlobalName

__all__ = ["Loading", "Verdict", "how_it_loads", "torch_allows"]

Verdict = Literal["no", "refused", "yes", "unknown"]


class Loading(NamedTuple):
    """What the usual way of loading a checkpoint does about code."""

    verdict: Verdict
    """Would it execute what the file names? ``no``: nothing in the file is code, or the
    loader calls what makes tensors and plain data and refuses all else; ``refused``: the
    loader refuses the file, and told to trust it, would execute; ``yes``: it would;
    ``unknown``: the format's loader is not known here, or what it unpickles within."""
    call: str
    """The usual way, e.g. ``torch.load``."""
    reason: str
    """Why, as a sentence without its full stop."""
    names: tuple[str, ...] = ()
    """Dotted names that the loader refuses, or would import and call, names of
    nobody's library first."""
    beside: tuple[str, ...] = ()
    """What else in it programs may run, as sentences: code that a configuration names, templates."""


class _Way(NamedTuple):
    """How files of a format are loaded."""

    call: str
    kind: Literal["data", "torch", "pickle", "code"]
    """``data``: no code in it; ``torch``: by torch.load; ``pickle``: by an unpickler that
    takes everything; ``code``: it holds code, which loading runs or prepares to run."""
    reason: str = ""


_UNRESTRICTED = "torch.load(weights_only=False)"
_BY_DEFAULT = "weights_only=True, the default since torch 2.6"
_WAYS: dict[str, _Way] = {
    "safetensors": _Way("safetensors.torch.load_file", "data", "the format holds numbers and texts alone"),
    "gguf": _Way("llama.cpp, gguf.GGUFReader", "data", "the format holds numbers and texts alone"),
    "npy": _Way("numpy.load", "data", "an array of numbers"),
    "npz": _Way("numpy.load", "data", "arrays of numbers"),
    "onnx": _Way(
        "onnx.load",
        "data",
        "a graph of operators; those that are not ONNX's own come from libraries that a program registers",
    ),
    "torch-zip": _Way("torch.load", "torch"),
    "torch-legacy": _Way("torch.load", "torch"),
    "torch-tar": _Way("torch.load", "torch"),
    "megatron": _Way("torch.load", "torch"),
    "deepspeed": _Way(_UNRESTRICTED, "pickle"),
    "dcp": _Way("torch.distributed.checkpoint.load", "pickle"),
    "pickle": _Way("pickle.load", "pickle"),
    "torch-export": _Way("torch.export.load", "pickle"),
    "torchscript": _Way(
        "torch.jit.load", "code", "it holds TorchScript, which is compiled and runs when the module is called"
    ),
    "torch-package": _Way(
        "torch.package.PackageImporter", "code", "it holds Python source, which runs as it is loaded"
    ),
}
_WORST: dict[Verdict, int] = {"no": 0, "unknown": 1, "refused": 2, "yes": 3}


def how_it_loads(checkpoint: Checkpoint) -> Loading:
    """
    The answer for a checkpoint; of one that is made of several formats the worst.

    Args:
        checkpoint: Its headers.
    """
    words = checkpoint.format.replace(",", " ").split()
    formats = [word.lower() for word in words if word.lower() in _WAYS]
    if not formats:
        return Loading("unknown", "", "what loads this format is not known here")
    worst = max((_loading(checkpoint, name) for name in formats), key=lambda each: _WORST[each.verdict])
    return worst._replace(beside=tuple(_beside(checkpoint.metadata)))


def _beside(metadata: Mapping[str, str]) -> Iterator[str]:
    """What its author put beside the tensors that a program may run."""
    if any("auto_map" in key.split(".") for key in metadata):
        yield "its configuration names Python code (auto_map), which runs with trust_remote_code=True"
    if any(key.endswith("chat_template") or ".chat_template." in key for key in metadata):
        yield "it holds a chat template (Jinja), which programs run to format a conversation"


def _loading(checkpoint: Checkpoint, name: str) -> Loading:
    way = _WAYS[name]
    if way.kind == "torch":
        return _by_torch(checkpoint, name, way)
    if way.kind == "data":
        return _of_data(checkpoint, name, way)
    foreign = _dotted(name for name in checkpoint.globals if not name.understood)
    if way.kind == "code":
        return Loading("yes", way.call, way.reason, foreign)
    if foreign:
        return Loading("yes", way.call, "unpickles whatever there is, and would import and call", foreign)
    if any((name.module, name.name) == _NESTED for name in checkpoint.globals):
        return Loading(
            "unknown", way.call, f"it calls {'.'.join(_NESTED)}, which unpickles byte strings in it"
        )
    reason = "the pickle in it calls what makes tensors and plain data, and nothing else"
    return Loading("no", way.call, reason if checkpoint.globals else "it names nothing to call")


_NESTED = ("torch.storage", "_load_from_bytes")
"""Reads each storage of a tensor that was pickled without torch.save, and whatever else is in
its byte string, with ``torch.load(weights_only=False)`` (torch 2.13, ``torch/storage.py``)."""
_OBJECTS = "Python objects"
"""What the reader of arrays says of those whose elements are a pickle."""


def _of_data(checkpoint: Checkpoint, name: str, way: _Way) -> Loading:
    """Formats that hold no code; an array of objects is a pickle, and so may be files beside them."""
    if name in ("npy", "npz") and any(_OBJECTS in note for note in checkpoint.notes):
        reason = "it refuses arrays of objects; allow_pickle=True would unpickle whatever there is"
        return Loading("refused", way.call, reason)
    if not checkpoint.globals:
        return Loading("no", way.call, way.reason)
    beside = _by_torch(checkpoint, "torch-zip", _WAYS["torch-zip"])
    return beside._replace(reason=f"of the pickles beside the weights: {beside.reason}")


def _by_torch(checkpoint: Checkpoint, name: str, way: _Way) -> Loading:
    refused = _dotted(name for name in checkpoint.globals if not torch_allows(name.module, name.name))
    if refused:
        reason = f"{_BY_DEFAULT}, refuses it; {_UNRESTRICTED} would import and call"
        return Loading("refused", way.call, reason, refused)
    why = "the tar layout" if name == "torch-tar" else _why_opcodes_are_refused(checkpoint)
    if why is not None:
        reason = f"{_BY_DEFAULT}, refuses {why}; the names in it are all on its list"
        return Loading("refused", way.call, reason)
    return Loading("no", way.call, f"{_BY_DEFAULT}, takes it: each name in it is on its list")


def _why_opcodes_are_refused(checkpoint: Checkpoint) -> str | None:
    """Protocols whose opcodes that unpickler lacks; 3 differs from 2 in byte strings alone."""
    protocol = checkpoint.facts.get("pickle protocol", "2")
    return None if protocol in ("2", "3") else f"pickles of protocol {protocol}"


def _dotted(names: Iterable[GlobalName]) -> tuple[str, ...]:
    """Each once, names of nobody's library first."""
    ordered = sorted(names, key=lambda name: name.module.partition(".")[0] in _LIBRARIES)
    return tuple(dict.fromkeys(f"{name.module}.{name.name}" for name in ordered))


_LIBRARIES = ("torch", "numpy", "collections")


# ---------------------------------------------------------------- torch's own list

_STORAGES = frozenset(BY_TORCH_STORAGE) - {"ComplexHalfStorage"}
_TENSOR_CLASSES = frozenset(
    f"{kind}Tensor"
    for kind in ("Float", "Double", "Half", "BFloat16", "Byte", "Char", "Short", "Int", "Long", "Bool")
)
_CUDA_STORAGES = frozenset(name for name in _STORAGES if not name.startswith("Q"))
_OF_TORCH = frozenset(
    {
        "Size", "Tensor", "device",
        "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool",
        "uint16", "uint32", "uint64", "complex128", "complex64", "complex32",
        "qint8", "qint32", "quint8", "quint4x2", "quint2x4",
        "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu",
        "float4_e2m1fn_x2", "bits1x8", "bits2x4", "bits4x2", "bits8", "bits16",
        "int1", "int2", "int3", "int4", "int5", "int6", "int7",
        "uint1", "uint2", "uint3", "uint4", "uint5", "uint6", "uint7",
        "per_tensor_affine", "per_tensor_symmetric", "per_channel_affine", "per_channel_symmetric",
        "per_channel_affine_float_qparams",
    }
)  # fmt: skip
_ALLOWED: dict[str, frozenset[str]] = {
    "torch": _OF_TORCH | _STORAGES | _TENSOR_CLASSES,
    "torch.cuda": _CUDA_STORAGES | _TENSOR_CLASSES,
    # Neither has a BoolTensor.
    "torch.sparse": _TENSOR_CLASSES - {"BoolTensor"},
    "torch.cuda.sparse": _TENSOR_CLASSES - {"BoolTensor"},
    "torch.storage": frozenset({"TypedStorage", "UntypedStorage"}),
    "torch.nn.parameter": frozenset({"Parameter"}),
    "torch.serialization": frozenset({"_get_layout"}),
    "torch._tensor": frozenset({"_rebuild_from_type_v2"}),
    "torch._utils": frozenset(
        f"_rebuild_{what}"
        for what in (
            "tensor", "tensor_v2", "tensor_v3", "parameter", "parameter_with_state", "qtensor",
            "sparse_tensor", "nested_tensor", "wrapper_subclass", "meta_tensor_no_storage",
            "device_tensor_from_numpy", "device_tensor_from_cpu_tensor",
        )
    ),
    "collections": frozenset({"OrderedDict", "Counter"}),
    "builtins": frozenset({"bytearray", "set", "complex"}),
    "_codecs": frozenset({"encode"}),
}  # fmt: skip


def torch_allows(module: str, name: str) -> bool:
    """
    Does ``torch.load(weights_only=True)`` take a global of this name, as torch 2.13 comes?

    Names that Python 2 wrote count as those that they are in Python 3.

    >>> torch_allows("torch._utils", "_rebuild_tensor_v2"), torch_allows("os", "system")
    (True, False)
    """
    if name in _ALLOWED.get(module, ()):
        return True
    from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING

    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return name in _ALLOWED.get(module, ())
