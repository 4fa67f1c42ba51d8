"""
What the symbols of a pickle mean where torch wrote it.

The callables below are those that torch's tensors, parameters and buffers are
pickled with (``Tensor.__reduce_ex__``, ``Parameter.__reduce_ex__`` and
``torch/_utils.py`` of torch 0.1 to 2.13). Each gets a meaning: a row of a
table. No other name has one, whatever it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple, NoReturn

from modelinspect.dtypes import BY_NAME, BY_TORCH_STORAGE, DType
from modelinspect.errors import DamagedFileError, LimitError, visible
from modelinspect.readers.parts.kinds import infer_kind
from modelinspect.readers.parts.pickle_symbols import Call, Global, PersistentId, PickledDict
from modelinspect.tensors import Kind, Storage, TensorInfo

__all__ = [
    "BARE",
    "STORAGE_TYPES",
    "HeldStorage",
    "How",
    "StorageClaim",
    "TensorReader",
    "class_of",
    "is_understood",
    "read_claim",
    "saved_tensor",
]

_MOST = 1 << 63
_new_row = tuple.__new__  # half the time of calling the named tuple
_UINT8 = BY_NAME["uint8"]
_MAX_AXES = 64
"""torch allows no more either; the product of a million sizes would take for ever."""
_MAX_DEPTH = 8
"""Calls inside calls that make one tensor: a Parameter of a DTensor of a wrapper is 3."""
_FREE_WORK = 2_000_000
"""Attributes of tensors to look at in any checkpoint, and one more for every byte of its pickle."""
_WORK_OF_A_PART = 16
"""What a tensor inside another counts: parts may be shared, and made of shared parts."""
_MAX_CLAIM_TEXT = 256
"""Characters of a storage's key or device; every tensor repeats them."""
_MAX_CLASS_NAME = 200


class How(NamedTuple):
    """What the place of a tensor says about it."""

    kind: Kind | None = None
    """None: nothing, so a Parameter or a Buffer says it or the name is asked."""
    declared: bool = False
    persistent: bool | None = None
    grad: bool | None = None
    """``requires_grad`` as a Parameter declares it; None: the tensor's own flag."""
    unset_grad: bool | None = None
    """What a flag that is not set means: in a module False, in a state_dict, which
    detaches, nothing."""


BARE = How()
_TRAINED = How("parameter", True, None, True)
_FROZEN = How("parameter", True, None, False)


class StorageClaim(NamedTuple):
    """A storage as the pickle refers to it."""

    key: str
    dtype: DType | None
    """None: untyped, counted in bytes."""
    numel: int
    nbytes: int
    """Bytes that it claims."""
    device: str
    view: tuple[str, int, int] | None
    """Key, first element and elements of a part of it (files before torch 0.4)."""


HeldStorage = tuple[Storage, "DType | None", int, int, "str | None"]
"""
A storage as the file holds it, in a form that tensors can be laid over: the
storage; its data type, None if untyped; the byte where tensors begin to count,
not 0 in views of old files; the bytes from there on that they may use; why no
tensor can use it, or None. A plain tuple, because it is made for every tensor.
"""


def read_claim(pid: object) -> StorageClaim | str:
    """
    A persistent id of a storage: ``("storage", type, key, location, numel[, view])``.

    Returns:
        The claim, or a text that says what is wrong with the id.
    """
    if not isinstance(pid, tuple) or not 5 <= len(pid) <= 6 or pid[0] != "storage":
        return "a reference to something other than a storage"
    kind, key, location, numel = pid[1:5]
    if type(kind) is not Global or not kind.name.endswith("Storage"):
        return "a storage of no known type"
    known = STORAGE_TYPES.get(kind.name)
    if known is None:
        return f"a storage of the unknown type {visible(kind.name[:80])}"
    if type(numel) is not int or not 0 <= numel < _MOST or type(key) not in (str, int):
        return "a storage whose key or size is no number"
    dtype, itemsize = known
    device = location if type(location) is str else "cpu"
    if len(device) > _MAX_CLAIM_TEXT or (type(key) is str and len(key) > _MAX_CLAIM_TEXT):
        return f"a storage with a key or a device of more than the {_MAX_CLAIM_TEXT} characters allowed"
    view = None if len(pid) == 5 or pid[5] is None else _view_of(pid[5])
    if view == ():
        return "a view of a storage that makes no sense"
    return StorageClaim._make(
        (key if type(key) is str else str(key), dtype, numel, numel * itemsize, device, view)
    )


def _view_of(symbol: Any) -> Any:
    """Key, first element and elements; empty where it makes no sense."""
    if not isinstance(symbol, tuple) or len(symbol) != 3 or type(symbol[0]) not in (str, int):
        return ()
    if not all(type(number) is int and 0 <= number < _MOST for number in symbol[1:]):
        return ()
    key = str(symbol[0])
    return (key, symbol[1], symbol[2]) if len(key) <= _MAX_CLAIM_TEXT else ()


STORAGE_TYPES: dict[str, tuple[DType | None, int]] = {
    **{name: (dtype, dtype.itemsize) for name, dtype in BY_TORCH_STORAGE.items()},
    "UntypedStorage": (None, 1),
    # TorchScript names a storage of any data type; torch.save those of later years by the tensor.
    **{
        f"{script}Storage": (BY_NAME[name], BY_NAME[name].itemsize)
        for script, name in {
            "UInt16": "uint16",
            "UInt32": "uint32",
            "UInt64": "uint64",
            "Float8_e5m2": "float8_e5m2",
            "Float8_e4m3fn": "float8_e4m3fn",
            "Float8_e5m2fnuz": "float8_e5m2fnuz",
            "Float8_e4m3fnuz": "float8_e4m3fnuz",
            "Float8_e8m0fnu": "float8_e8m0fnu",
            "Float4_e2m1fn_x2": "float4_e2m1fn_x2",
            "Bits8": "bits8",
            "Bits16": "bits16",
            "Bits1x8": "bits1x8",
            "Bits2x4": "bits2x4",
            "Bits4x2": "bits4x2",
        }.items()
    },
}
"""Name of a storage class to its data type, None for untyped, and bytes an element."""


_Build = Callable[["TensorReader", Any, str, How, int], TensorInfo]


class Maker:
    """The meaning of one callable."""

    __slots__ = ("build", "has_state")

    def __init__(self, build: _Build, has_state: bool) -> None:
        self.build = build
        self.has_state = has_state
        """It gives the tensor attributes, which may hold further tensors."""


class TensorReader:
    """
    Turns calls into rows.

    Args:
        where: Names the file in errors.
        globals_: Of the pickle; those with a meaning are given it.
        nbytes: Of the pickle; how much work it may ask for.
    """

    def __init__(self, where: str, globals_: Iterable[Global], nbytes: int = 0) -> None:
        self.where = where
        self.path = where
        """Of the file that the pickle lies in."""
        self.begin: int | None = None
        """Its first byte there; None where that doesn't hold it as it is."""
        self.has_tensors = False
        """There are tensors beside arrays, so that these are no model's."""
        self._placed: dict[int, TensorInfo] = {}
        self._arrays: dict[int, bool] = {}
        """Calls by their number, which the pickle keeps, to whether they make an array of numbers."""
        self._most = self._left = _FREE_WORK
        self.know(globals_, nbytes)

    def know(self, globals_: Iterable[Global], nbytes: int) -> None:
        """Read calls of another pickle as well, of so many bytes."""
        self._most += nbytes
        self._left += nbytes
        self._placed.clear()  # by identity, which may be had again
        for name in globals_:
            name.meaning = None if name.computed else _MAKERS.get(name.dotted) or _old_tensor_maker(name)

    def maker(self, symbol: object) -> Maker | None:
        """What makes a tensor of the symbol; None where it is none."""
        if type(symbol) is not Call or type(symbol.func) is not Global:
            # Files of torch 0.1 refer to whole tensors.
            return _SAVED if type(symbol) is PersistentId and type(symbol.meaning) is Call else None
        maker = symbol.func.meaning
        if maker is _FROM_TYPE and not _is_made_by_torch(symbol.args):
            return None
        if maker is _OLD_TENSOR and not _is_old_tensor(symbol):
            return None
        if maker is _ARRAY and not self._is_array(symbol):
            return None
        return maker  # type: ignore[no-any-return]

    def is_array(self, maker: Maker) -> bool:
        """Does it make a NumPy array?"""
        return maker is _ARRAY

    def read(self, maker: Maker, symbol: Any, name: str, how: How = BARE, depth: int = 0) -> TensorInfo:
        """
        The row of a tensor.

        Args:
            maker: What :meth:`maker` said of the symbol.
            symbol: A call.
            name: Of the row.
            how: What its place says.
            depth: Calls around this one that make the same tensor.

        Raises:
            DamagedFileError: The call makes no sense, or the file lacks its storage.
        """
        try:
            return maker.build(self, symbol, name, how, depth)
        except (IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise self._error(name, f"{_func_name(symbol)} is given arguments that make no sense") from error

    def attributes(self, symbol: Call) -> Any:
        """The state that holds the tensor's attributes, or None; a wrapper's are its parts."""
        is_wrapper = self.maker(symbol) is _FROM_TYPE and symbol.args[0].meaning.build in _WRAPPERS
        return None if is_wrapper or len(symbol.args) < 4 else symbol.args[3]

    def _inner(self, symbol: object, name: str, how: How, depth: int) -> TensorInfo:
        """A tensor that another is made of."""
        self._spend(_WORK_OF_A_PART)
        maker = self.maker(symbol)
        if maker is None:
            self._damaged(name, "it is made of something that is no tensor")
        if depth > _MAX_DEPTH:
            raise self._too_many(f"tensors inside each other, more than {_MAX_DEPTH} levels deep")
        return self.read(maker, symbol, name, how, depth)

    def _attributes(self, state: Any) -> Iterator[tuple[str, Any]]:
        """Names and values of a state: a dictionary, or a pair of one and one of slots."""
        for part in state[:2] if type(state) is tuple else (state,):
            if type(part) is PickledDict:
                self._spend(len(part.flat) // 2)
                for key, value in part.pairs():
                    if type(key) is str:
                        yield key, value

    def _spend(self, work: int) -> None:
        """Keep what tensors are made of within bounds: they share it at will."""
        self._left -= work
        if self._left < 0:
            raise self._too_many(f"parts and attributes of tensors (limit: {self._most:,})")

    def _too_many(self, what: str) -> LimitError:
        return LimitError(
            f"{visible(self.where)} claims more than is read", details=(f"it leads to too many {what}",)
        )

    def _error(self, name: str, reason: str) -> DamagedFileError:
        shown = visible(name) if len(name) <= 200 else visible(name[:200]) + "..."
        return DamagedFileError(
            f"{visible(self.where)} is truncated or damaged", details=(f"tensor {shown!r}: {reason}",)
        )

    def _damaged(self, name: str, reason: str) -> NoReturn:
        raise self._error(name, reason)

    # -- strided tensors -----------------------------------------------------------

    def _tensor_v2(
        self,
        call: Call,
        name: str,
        how: How,
        depth: int,  # noqa: ARG002
        dtype: DType | None = None,
        layout: str = "strided",
    ) -> TensorInfo:
        """``_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata])``."""
        pid, offset, size, stride, flag = call.args[:5]
        if type(pid) is not PersistentId:
            pid = self._loaded(pid, name)
        held: HeldStorage = pid.meaning
        storage, storage_dtype, first, nbytes, fault = held
        if fault is not None:
            self._damaged(name, fault)
        if dtype is None:
            dtype = storage_dtype or _UINT8
        shape = size if type(size) is tuple else _listed(size)
        steps = stride if type(stride) is tuple else _listed(stride)
        if type(offset) is not int or offset < 0 or len(shape) != len(steps) or len(shape) > _MAX_AXES:
            raise ValueError
        # Elements from the first to behind the last.
        reach, numel = 1, 1
        for length, step in zip(shape, steps):
            if type(length) is not int or length < 0 or type(step) is not int or step < 0:
                raise ValueError
            numel *= length
            reach += (length - 1) * step
        too_far = numel and (offset + reach) * dtype.bits > nbytes * 8
        if too_far or numel >= _MOST or offset >= _MOST:
            self._damaged(
                name,
                f"it reaches beyond its storage {visible(storage.key)!r} of {nbytes:,} bytes: "
                f"{dtype} of shape {str(shape)[:200]}, stride {str(steps)[:200]}, from element {offset:,}",
            )
        if first:
            offset += first * 8 // dtype.bits
        kind, declared, persistent, grad, unset = how
        if grad is None:
            grad = True if flag is True else unset
        return _new_row(
            TensorInfo,
            (
                name,
                dtype,
                shape,
                storage,
                steps,
                offset,
                infer_kind(name, dtype, shape) if kind is None else kind,
                declared,
                grad,
                _signed(layout, call.args),
                persistent,
                "",
                (),
                "",
                None,
                "",
            ),
        )

    def _loaded(self, symbol: Any, name: str) -> PersistentId:
        """The storage that ``torch.storage._load_from_bytes(bytes)`` gives, once the bytes are read."""
        pid = symbol.args[0] if type(symbol) is Call and type(symbol.args) is tuple and symbol.args else None
        if type(pid) is not PersistentId or pid.meaning is None:
            self._damaged(name, "it has no storage")
        return pid

    def _tensor_v1(self, call: Call, name: str, how: How, depth: int) -> TensorInfo:
        """``_rebuild_tensor(storage, offset, size, stride)``."""
        return self._tensor_v2(Call(call.func, (*call.args[:4], False)), name, how, depth)

    def _tensor_v3(self, call: Call, name: str, how: How, depth: int) -> TensorInfo:
        """``_rebuild_tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype[, ...])``."""
        return self._tensor_v2(call, name, how, depth, self._dtype(call.args[6], name))

    def _old_tensor(self, call: Call, name: str, how: How, depth: int) -> TensorInfo:
        """``torch.FloatTensor()`` given the state (storage, offset, size, stride): torch 0.1."""
        return self._tensor_v2(Call(call.func, (*call.states[-1], False)), name, how, depth)

    def _saved(self, pid: PersistentId, name: str, how: How, depth: int) -> TensorInfo:
        """A reference to a tensor that a file keeps beside its pickle."""
        return self._tensor_v2(pid.meaning, name, how, depth)

    def _dtype(self, symbol: object, name: str) -> DType:
        """``torch.float32`` as a global."""
        found = BY_NAME.get(symbol.name) if type(symbol) is Global and symbol.module == "torch" else None
        if found is None:
            self._damaged(name, "its data type is not known")
        return found

    # -- parameters, buffers, subclasses ---------------------------------------------

    def _parameter(self, call: Call, name: str, how: How, depth: int) -> TensorInfo:
        """``_rebuild_parameter(tensor, requires_grad, hooks)``; ``_with_state`` has a fourth."""
        flag = bool(call.args[1]) if len(call.args) > 1 else True
        return self._inner(call.args[0], name, _as_parameter(how, flag), depth + 1)

    def _variable(self, call: Call, name: str, how: How, depth: int) -> TensorInfo:
        """``Variable(tensor)`` given the state (requires_grad, volatile, hooks): torch 0.1 to 0.3."""
        state = call.states[-1] if call.states else ()
        flag = state[0] is True if type(state) is tuple and state else False
        return self._inner(call.args[0], name, how._replace(grad=True) if flag else how, depth + 1)

    def _from_type(self, call: Call, name: str, how: How, depth: int) -> TensorInfo:
        """``_rebuild_from_type_v2(func, class, args, state)``: a subclass, or attributes."""
        func, cls, args = call.args[:3]
        inner = Call(func, args)
        state = call.args[3] if len(call.args) > 3 else None
        attributes = dict(self._attributes(state))
        if attributes.get("_is_buffer") is True and how.kind is None:
            how = How("buffer", True, attributes.get("persistent") is not False, None, False)
        elif attributes.get("_is_param") is True:
            how = _as_parameter(how, None)
        if func.meaning.build in _WRAPPERS:
            inner.grown().states.append(state)
        row = self._inner(inner, name, how, depth + 1)
        if type(cls) is Global and cls.name == "UninitializedBuffer":
            return row._replace(shape=(), storage=None, explicit_stride=None, layout="uninitialized")
        class_name = cls.dotted[:_MAX_CLASS_NAME] if type(cls) is Global else ""
        return row if class_name in _PLAIN_CLASSES else row._replace(class_name=class_name)

    def _wrapper(self, call: Call, name: str, how: How, depth: int) -> TensorInfo:
        """``_rebuild_wrapper_subclass(class, dtype, size, stride, offset, layout, device, grad)``."""
        _, dtype, size, stride, offset, _, _, flag = call.args
        state = call.states[-1] if call.states else None
        fields = list(self._attributes(state))
        parts = [
            self._inner(symbol, label, how, depth + 1)
            for label, symbol in fields
            if self.maker(symbol) is not None
        ]
        row = self._composite(name, self._dtype(dtype, name), _sizes(size), "wrapper", parts, how)
        grad = True if flag is True and how.grad is None else row.requires_grad
        offset = 0 if offset is None else offset
        if type(offset) is not int or not 0 <= offset < _MOST:
            raise ValueError
        row = row._replace(explicit_stride=_sizes(stride), storage_offset=offset, requires_grad=grad)
        spec = next((symbol for label, symbol in fields if label == "_spec"), None)
        return row if spec is None else row._replace(placement=_placement(spec))

    def _jagged(self, call: Call, name: str, how: How, depth: int) -> TensorInfo:
        """``_rebuild_njt({"values": ..., "offsets": ..., "requires_grad": ...})``."""
        fields = dict(self._attributes(call.args[0]))
        labels = [label for label in ("values", "offsets", "lengths") if self.maker(fields.get(label))]
        parts = [self._inner(fields[label], label, how, depth + 1) for label in labels]
        row = self._composite(name, parts[0].dtype, parts[0].shape, "nested", parts, how)
        return row._replace(requires_grad=True) if fields.get("requires_grad") is True else row

    # -- tensors made of others --------------------------------------------------------

    def _sparse(self, call: Call, name: str, how: How, depth: int) -> TensorInfo:
        """``_rebuild_sparse_tensor(layout, (indices ..., values, size[, is_coalesced]))``."""
        layout = _layout_name(call.args[0])
        labels = _SPARSE_PARTS.get(layout)
        if labels is None:
            self._damaged(name, f"its layout {visible(layout[:40])!r} is not known")
        data = call.args[1]
        parts = [self._inner(part, label, how, depth + 1) for part, label in zip(data, labels)]
        return self._composite(name, parts[-1].dtype, _sizes(data[len(labels)]), layout, parts, how)

    def _quantized(self, call: Call, name: str, how: How, depth: int) -> TensorInfo:
        """``_rebuild_qtensor(storage, offset, size, stride, quantizer, requires_grad, hooks)``."""
        *place, quantizer, flag = call.args[:6]
        data = self._tensor_v2(Call(call.func, (*place, flag)), name, how, depth, layout="quantized")
        scales = [
            self._inner(symbol, label, how, depth + 1)
            for label, symbol in zip(("scales", "zero_points"), quantizer[1:3])
            if self.maker(symbol) is not None
        ]
        if not scales:
            return data
        return data._replace(storage=None, parts=(data._replace(name="data"), *scales))

    def _nested(self, call: Call, name: str, how: How, depth: int) -> TensorInfo:
        """``_rebuild_nested_tensor(buffer, sizes, strides, offsets)``; the shapes are values."""
        labels = ("values", "sizes", "strides", "offsets")
        parts = [self._inner(part, label, how, depth + 1) for part, label in zip(call.args, labels)]
        return self._composite(name, parts[0].dtype, parts[0].shape, "nested", parts, how)

    def _composite(
        self,
        name: str,
        dtype: DType,
        shape: tuple[int, ...],
        layout: str,
        parts: list[TensorInfo],
        how: How,
    ) -> TensorInfo:
        if prod(shape) >= _MOST:
            raise ValueError
        return TensorInfo(
            name,
            dtype,
            shape,
            None,
            kind=how.kind or infer_kind(name, dtype, shape),
            declared=how.declared,
            requires_grad=how.unset_grad if how.grad is None else how.grad,
            layout=layout,
            persistent=how.persistent,
            parts=tuple(parts),
        )

    # -- tensors without bytes here ------------------------------------------------------

    def _meta(self, call: Call, name: str, how: How, depth: int) -> TensorInfo:  # noqa: ARG002
        """``_rebuild_meta_tensor_no_storage(dtype, size, stride, requires_grad)``."""
        dtype, size, stride, flag = call.args
        row = self._composite(name, self._dtype(dtype, name), _sizes(size), "strided", [], how)
        grad = True if flag is True and how.grad is None else row.requires_grad
        return row._replace(explicit_stride=_sizes(stride), requires_grad=grad)

    def _uninitialized(self, call: Call, name: str, how: How, depth: int) -> TensorInfo:  # noqa: ARG002
        """``UninitializedParameter(requires_grad)``, and the same of a buffer: no shape yet."""
        assert type(call.func) is Global
        flag = bool(call.args and call.args[0])
        if call.func.name == "UninitializedParameter":
            how = _as_parameter(how, flag)
        elif how.kind is None:
            how = How("buffer", True, how.persistent, None, False)
        return self._composite(name, BY_NAME["float32"], (), "uninitialized", [], how)

    def _from_cpu_tensor(self, call: Call, name: str, how: How, depth: int) -> TensorInfo:
        """``_rebuild_device_tensor_from_cpu_tensor(tensor, dtype, device, requires_grad)``."""
        tensor, dtype, device, flag = call.args
        row = self._inner(tensor, name, how, depth + 1)
        if row.storage is not None and type(device) is str and len(device) <= _MAX_CLAIM_TEXT:
            row = row._replace(storage=row.storage._replace(device=device))
        grad = True if flag is True and how.grad is None else row.requires_grad
        return row._replace(dtype=self._dtype(dtype, name), requires_grad=grad)

    def _from_numpy(self, call: Call, name: str, how: How, depth: int) -> TensorInfo:
        """``_rebuild_device_tensor_from_numpy(array, dtype, device, requires_grad)``: XLA."""
        array, dtype, device, flag = call.args
        row = self._array(array, name, how if how.kind else How("parameter"), depth)
        found = self._dtype(dtype, name)
        kind = how.kind or infer_kind(name, found, row.shape)
        on = device if type(device) is str and len(device) <= _MAX_CLAIM_TEXT else "cpu"
        assert row.storage is not None
        # numpy has no bfloat16: such a tensor is saved as float32 and converted when it is loaded.
        place = row.storage._replace(device=on, nbytes=found.nbytes(row.numel))
        if found is not row.dtype:
            place = place._replace(offset=None)
        grad = True if flag is True and how.grad is None else row.requires_grad
        return row._replace(dtype=found, kind=kind, storage=place, requires_grad=grad, class_name="")

    # -- arrays ----------------------------------------------------------------------------

    def _is_array(self, call: Call) -> bool:
        """Does the call make an array of numbers? Of what makes no sense yes, so that it is said."""
        known = self._arrays.get(id(call))
        if known is None:
            from modelinspect.readers.parts.numpy_arrays import array_of

            try:
                known = array_of(call) is not None
            except (IndexError, TypeError, ValueError, AttributeError):
                known = True
            self._arrays[id(call)] = known
        return known

    def _array(self, call: Call, name: str, how: How, depth: int) -> TensorInfo:  # noqa: ARG002
        """A NumPy array."""
        row = self._placed.get(id(call))
        if row is None:
            row = self._placed[id(call)] = self._placed_array(call, name)
        kind = how.kind or ("other" if self.has_tensors else infer_kind(name, row.dtype, row.shape))
        grad = how.unset_grad if how.grad is None else how.grad
        # As _replace does, in a tenth of the time: an array may have a million names.
        fields = (name, *row[1:6], kind, how.declared, grad, row.layout, how.persistent, *row[11:])
        return _new_row(TensorInfo, fields)

    def _placed_array(self, call: Call, name: str) -> TensorInfo:
        from modelinspect.readers.parts.numpy_arrays import array_of

        found = array_of(call)
        if found is None:
            raise ValueError
        nbytes = found.dtype.nbytes(prod(found.shape))
        if not found.numbers.least <= nbytes <= found.numbers.most:
            self._damaged(name, f"its numbers take {nbytes:,} bytes, the pickle holds {found.numbers.most:,}")
        row = self._composite(name, found.dtype, found.shape, "strided", [], BARE)
        position = found.numbers.position
        offset = None if position is None or self.begin is None else self.begin + position
        key = f"array {len(self._placed) + 1} in the pickle"
        place = Storage(self.path, key, offset, nbytes, "cpu", found.byteorder)
        return row._replace(storage=place, explicit_stride=found.stride, class_name="numpy.ndarray")


@lru_cache(maxsize=256)
def _as_parameter(how: How, flag: bool | None) -> How:
    """*how*, for a tensor that a Parameter wraps; its place still decides the kind."""
    if how is BARE and flag is not None:
        return _TRAINED if flag else _FROZEN
    if how.kind is None:
        return How("parameter", True, None, flag, False)
    return how._replace(grad=flag)


def _listed(value: Any) -> tuple[Any, ...]:
    """A tuple, list or ``torch.Size`` as a tuple. Raises ValueError."""
    if type(value) is Call:
        value = value.args[0]
    if type(value) not in (tuple, list) or len(value) > _MAX_AXES:
        raise ValueError
    return tuple(value)


def _sizes(value: Any) -> tuple[int, ...]:
    """The same, of sizes only. Raises ValueError."""
    sizes = _listed(value)
    for number in sizes:
        if type(number) is not int or not 0 <= number < _MOST:
            raise ValueError
    return sizes


def _layout_name(symbol: Any) -> str:
    """``sparse_coo`` of ``torch.serialization._get_layout("torch.sparse_coo")``."""
    if type(symbol) is Global:
        return symbol.name
    text = symbol.args[0]
    return text.removeprefix("torch.") if type(text) is str else ""


def _signed(layout: str, args: Any) -> str:
    """
    Layout of a tensor whose bytes are not its values: torch conjugates or negates them when asked.

    The last argument of ``_rebuild_tensor_v2`` and ``_v3`` is then ``{"conj": True}`` or ``{"neg": True}``.
    """
    if len(args) < 7:
        return layout
    metadata = args[-1]
    if type(metadata) is PickledDict and len(metadata.flat) <= 2 * _MAX_AXES:
        for key, value in metadata.pairs():
            if value is True and type(key) is str and key in _SIGNS:
                return _SIGNS[key]
    return layout


def _placement(spec: Any) -> str:
    from modelinspect.readers.parts.placements import placement_of

    return placement_of(spec)


def _func_name(call: Call) -> str:
    return visible(call.func.dotted[:200]) if type(call.func) is Global else "a call"


def _is_made_by_torch(args: Any) -> bool:
    """Is the function that ``_rebuild_from_type_v2`` is told to call one of those known here?"""
    return (
        type(args) is tuple and len(args) >= 3 and type(args[0]) is Global and type(args[0].meaning) is Maker
    )


def _is_old_tensor(call: Call) -> bool:
    state = call.states[-1] if call.states else None
    return type(state) is tuple and len(state) == 4 and type(state[0]) is PersistentId


_SIGNS = {"conj": "conjugate", "neg": "negative"}
_SPARSE_PARTS = {
    "sparse_coo": ("indices", "values"),
    "sparse_csr": ("crow_indices", "col_indices", "values"),
    "sparse_csc": ("ccol_indices", "row_indices", "values"),
    "sparse_bsr": ("crow_indices", "col_indices", "values"),
    "sparse_bsc": ("ccol_indices", "row_indices", "values"),
}
_PLAIN_CLASSES = {
    "",
    "torch.Tensor",
    "torch.nn.parameter.Parameter",
    "torch.nn.parameter.Buffer",
}

_SAVED = Maker(TensorReader._saved, False)
_ARRAY = Maker(TensorReader._array, False)
_FROM_TYPE = Maker(TensorReader._from_type, True)
_OLD_TENSOR = Maker(TensorReader._old_tensor, False)
_WRAPPERS = (TensorReader._wrapper, TensorReader._jagged)

_MAKERS: dict[str, Maker] = {
    "torch._utils._rebuild_tensor": Maker(TensorReader._tensor_v1, False),
    "torch._utils._rebuild_tensor_v2": Maker(TensorReader._tensor_v2, False),
    "torch._utils._rebuild_tensor_v3": Maker(TensorReader._tensor_v3, False),
    "torch._utils._rebuild_parameter": Maker(TensorReader._parameter, False),
    "torch._utils._rebuild_parameter_with_state": Maker(TensorReader._parameter, True),
    "torch.nn.parameter.Parameter": Maker(TensorReader._parameter, False),
    "torch.autograd.variable.Variable": Maker(TensorReader._variable, False),
    "torch._tensor._rebuild_from_type_v2": _FROM_TYPE,
    "torch._tensor._rebuild_from_type": _FROM_TYPE,
    # The module's name up to torch 1.8.
    "torch.tensor._rebuild_from_type": _FROM_TYPE,
    "torch.tensor._rebuild_from_type_v2": _FROM_TYPE,
    "torch._utils._rebuild_wrapper_subclass": Maker(TensorReader._wrapper, False),
    "torch.nested._internal.nested_tensor._rebuild_njt": Maker(TensorReader._jagged, False),
    "torch._utils._rebuild_sparse_tensor": Maker(TensorReader._sparse, False),
    "torch._utils._rebuild_sparse_csr_tensor": Maker(TensorReader._sparse, False),
    "torch._utils._rebuild_qtensor": Maker(TensorReader._quantized, False),
    "torch._utils._rebuild_nested_tensor": Maker(TensorReader._nested, False),
    "torch._utils._rebuild_meta_tensor_no_storage": Maker(TensorReader._meta, False),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": Maker(TensorReader._from_cpu_tensor, False),
    "torch._utils._rebuild_device_tensor_from_numpy": Maker(TensorReader._from_numpy, False),
    "torch._utils._rebuild_xla_tensor": Maker(TensorReader._from_numpy, False),
    "torch.nn.parameter.UninitializedParameter": Maker(TensorReader._uninitialized, False),
    "torch.nn.parameter.UninitializedBuffer": Maker(TensorReader._uninitialized, False),
    "numpy._core.multiarray._reconstruct": _ARRAY,
    "numpy.core.multiarray._reconstruct": _ARRAY,
    "numpy._core.numeric._frombuffer": _ARRAY,
    "numpy.core.numeric._frombuffer": _ARRAY,
}


def _old_tensor_maker(name: Global) -> Maker | None:
    """``torch.FloatTensor`` and its like, which torch 0.1 pickled as classes."""
    is_class = name.module in ("torch", "torch.cuda") and name.name.endswith("Tensor")
    return _OLD_TENSOR if is_class and name.name != "Tensor" else None


# -- names without a tensor, which are understood all the same ---------------------------

_CONTAINERS = frozenset({
    "collections.OrderedDict", "collections.defaultdict", "collections.Counter", "collections.deque",
    "builtins.dict", "builtins.list", "builtins.tuple", "builtins.set", "builtins.frozenset",
    "builtins.object", "builtins.bytearray", "builtins.bytes", "builtins.complex", "builtins.slice",
    "builtins.range", "builtins.int", "builtins.float", "builtins.bool", "builtins.str",
    "__builtin__.dict", "__builtin__.list", "__builtin__.tuple", "__builtin__.set", "__builtin__.frozenset",
    "__builtin__.object", "__builtin__.bytearray", "__builtin__.complex", "__builtin__.slice",
    "__builtin__.xrange", "__builtin__.int", "__builtin__.long", "__builtin__.float", "__builtin__.bool",
    "__builtin__.str", "__builtin__.unicode",
    "_codecs.encode", "copy_reg._reconstructor", "copyreg._reconstructor",
    "torch.Size", "torch.device", "torch.Tensor", "torch.serialization._get_layout",
    "torch.nn.parameter.Buffer", "torch.storage.UntypedStorage", "torch.storage.TypedStorage",
    "numpy.ndarray", "numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar",
    "torch.nested._internal.nested_tensor.NestedTensor", "torch.storage._load_from_bytes",
})  # fmt: skip
_TORCH_CONSTANTS = frozenset({
    "strided", "sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc", "jagged",
    "per_tensor_affine", "per_tensor_symmetric", "per_channel_affine", "per_channel_symmetric",
    "per_channel_affine_float_qparams",
    "contiguous_format", "channels_last", "channels_last_3d", "preserve_format",
})  # fmt: skip


def is_understood(name: Global) -> bool:
    """
    Is the global one of the few whose meaning is known: tensors and plain data?
    """
    if name.computed:
        return False
    if name.meaning is not None or name.dotted in _CONTAINERS:
        return True
    if name.module == "torch" and (name.name in BY_NAME or name.name in _TORCH_CONSTANTS):
        return True
    return name.module in ("torch", "torch.cuda") and name.name in BY_TORCH_STORAGE


def saved_tensor(held: HeldStorage, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Call:
    """
    What a reference means that stands for a whole tensor, as in files of torch 0.1.
    """
    storage = PersistentId(None)
    storage.meaning = held
    return Call(_SAVED_NAME, (storage, offset, size, stride, False))


_SAVED_NAME = Global("torch._utils", "_rebuild_tensor", 0)


def class_of(call: Call) -> Global | None:
    """
    The class of an object, or the function that makes it; None where that is not a name.
    """
    func, args = call.func, call.args
    if type(func) is PersistentId:
        # Files before 1.6 wrap a module's class with its source: ("module", class, file, text).
        pid = func.pid
        # Those of torch 0.1: (class, file, text).
        func = None if type(pid) is not tuple or len(pid) < 2 else pid[1] if pid[0] == "module" else pid[0]
    if type(func) is not Global:
        return None
    if func.name in ("_reconstructor", "__newobj__", "__newobj_ex__") and type(args) is tuple and args:
        return args[0] if type(args[0]) is Global else func
    return func
