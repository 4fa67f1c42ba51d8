"""
Tables of what is in memory: a module tree, or a dict of tensors.

Only names, shapes, data types and storages are taken down; no value is looked at.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from modelinspect.dtypes import BY_NAME, DType
from modelinspect.errors import DefinitionError, visible
from modelinspect.readers.parts.kinds import infer_kind, settled_by_siblings
from modelinspect.tensors import Kind, ParameterTable, Storage, TensorInfo, contiguous_stride, unique_names

__all__ = ["flattened", "module_table", "tensors_table"]

_PLAIN = (Tensor, nn.Parameter)
_OWN_ATTRIBUTES = frozenset(vars(nn.Module()))
_MOST_NAMED = 5
_EXTRA_STATE = "_extra_state"
_ROWS = (("crow_indices", "crow_indices"), ("col_indices", "col_indices"), ("values", "values"))
_COLUMNS = (("ccol_indices", "ccol_indices"), ("row_indices", "row_indices"), ("values", "values"))
_SPARSE_PARTS = {
    torch.sparse_coo: (("indices", "_indices"), ("values", "_values")),
    torch.sparse_csr: _ROWS,
    torch.sparse_bsr: _ROWS,
    torch.sparse_csc: _COLUMNS,
    torch.sparse_bsc: _COLUMNS,
}
"""Layout to names of its parts and the methods that give them."""


def module_table(
    module: nn.Module, source: str, origin: Literal["definition", "memory"] = "definition"
) -> ParameterTable:
    """
    The parameters and buffers of a module tree, in the order of registration.

    Args:
        module: Anything, also on the meta device.
        source: Named in reports: the target as the user spelt it.
        origin: How the module came about.

    Returns:
        Every name of every tensor, so tied ones and shared modules more than once,
        in the order of ``state_dict()``; non-persistent buffers with the others.
        Tensors and modules that hang on it without being registered are pointed out.

    Raises:
        DefinitionError: Somebody put into its registries what torch would refuse.
    """
    tree, notes = _walk(module, source)
    rows = _Rows()
    tensors: list[TensorInfo] = []
    for path, part in tree:
        prefix = f"{path}." if path else ""
        for name, parameter in part._parameters.items():
            if parameter is not None:
                tensors.append(rows.row(prefix + name, parameter, "parameter", declared=True))
        transient = part._non_persistent_buffers_set
        for name, buffer in part._buffers.items():
            if buffer is not None:
                row = rows.row(prefix + name, buffer, "buffer", declared=True)
                tensors.append(row._replace(persistent=name not in transient))
    lazy = [tensor.name for tensor in tensors if tensor.layout == "uninitialized"]
    return ParameterTable(
        source=source,
        tensors=tensors,
        origin=origin,
        modules={path: type(part).__name__ for path, part in tree},
        unregistered=list(_unregistered(tree, rows)),
        others=tuple(_extra_states(tree)),
        notes=(*notes, *_lazy_note(lazy), *_hidden_modules(tree, rows), *_saved_apart(tree, rows)),
    )


def tensors_table(mapping: Mapping[Any, Any], source: str) -> ParameterTable:
    """
    The tensors of a dict in hand, e.g. a loaded state_dict.

    Args:
        mapping: Names to torch tensors, parameters or NumPy arrays; dicts and lists
            in it are followed, their keys joined by dots.
        source: Named in reports.

    Returns:
        One row a tensor, in the dict's order. Only a ``Parameter``, or a tensor that
        requires grad, says that it is a parameter; otherwise names and data types
        are gone by, as for a file. What is no tensor is named in a note.
    """
    rows = _Rows()
    tensors: list[TensorInfo] = []
    others: list[str] = []
    for name, value in flattened(mapping):
        if isinstance(value, Tensor):
            tensors.append(_undeclared(rows, name, value))
        elif (row := rows.array(name, value)) is not None:
            tensors.append(row)
        else:
            others.append(name)
    lazy = [tensor.name for tensor in tensors if tensor.layout == "uninitialized"]
    notes = [*_lazy_note(lazy)]
    if others:
        what = (
            "1 entry holds no tensor and is"
            if len(others) == 1
            else f"{len(others):,} entries hold no tensor and are"
        )
        notes.append(f"{what} left out: {_listed(others)}")
    return ParameterTable(
        source=source,
        tensors=unique_names(settled_by_siblings(tensors)),
        origin="memory",
        others=tuple(others),
        versions=_versions(getattr(mapping, "_metadata", None)),
        notes=tuple(notes),
    )


def _versions(metadata: Any) -> dict[str, int]:
    """What ``state_dict()`` hangs on its dictionary: module path to layout version."""
    if not isinstance(metadata, Mapping):
        return {}
    pairs = ((path, entry.get("version")) for path, entry in metadata.items() if isinstance(entry, Mapping))
    return {str(path): version for path, version in pairs if type(version) is int}


def _undeclared(rows: _Rows, name: str, tensor: Tensor) -> TensorInfo:
    if isinstance(tensor, nn.Parameter) or tensor.requires_grad:
        return rows.row(name, tensor, "parameter", declared=True)
    row = rows.row(name, tensor, "parameter")
    return row._replace(kind=infer_kind(name, row.dtype, row.shape), requires_grad=None)


def flattened(mapping: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Leaves with their dotted names, in order. A dict that holds itself is entered once."""
    pending: list[tuple[str, Any, frozenset[int]]] = [("", mapping, frozenset())]
    while pending:
        path, value, above = pending.pop()
        if isinstance(value, Mapping):
            items: Iterable[tuple[Any, Any]] = value.items()
        elif isinstance(value, (list, tuple)):
            items = enumerate(value)
        else:
            yield path, value
            continue
        if id(value) not in above:
            inside = above | {id(value)}
            entries = [(f"{path}.{key}" if path else str(key), item, inside) for key, item in items]
            pending.extend(reversed(entries))


class _Rows:
    """
    Makes rows and numbers the storages, so that equal numbers are the same memory.

    On the meta device every ``data_ptr()`` is 0; the address of torch's storage
    object tells two storages apart on any device.
    """

    def __init__(self) -> None:
        self._storages: dict[int, Storage] = {}
        self._buffers: dict[int, Storage] = {}
        # An address is given out again once its storage is freed.
        self._kept_alive: list[Any] = []
        self._seen: set[int] = set()

    def row(self, name: str, tensor: Tensor, kind: Kind, *, declared: bool = False) -> TensorInfo:
        """One row for any tensor."""
        self._seen.add(id(tensor))
        plain = TensorInfo(
            name=name,
            dtype=_dtype(tensor.dtype),
            shape=(),
            storage=None,
            kind=kind,
            declared=declared,
            requires_grad=tensor.requires_grad,
            class_name="" if type(tensor) in _PLAIN else _class_name(type(tensor)),
        )
        if is_lazy(tensor):
            return plain._replace(layout="uninitialized", class_name="")
        if tensor.is_nested:
            return self._nested(plain, tensor)
        shape = tuple(tensor.shape)
        if tensor.layout in _SPARSE_PARTS:
            parts = tuple((part, getattr(tensor, method)()) for part, method in _SPARSE_PARTS[tensor.layout])
            layout = str(tensor.layout).removeprefix("torch.")
            return plain._replace(shape=shape, layout=layout, parts=self._parts(parts, kind))
        if type(tensor) not in _PLAIN and hasattr(tensor, "__tensor_flatten__"):
            inner = tensor.__tensor_flatten__()[0]
            parts = tuple((part, getattr(tensor, part)) for part in inner)
            return plain._replace(shape=shape, layout="wrapper", parts=self._parts(parts, kind))
        return self._strided(plain, tensor, shape)

    def array(self, name: str, value: Any) -> TensorInfo | None:
        """A row for a NumPy array of numbers; None for anything else."""
        numpy = sys.modules.get("numpy")
        if numpy is None or not isinstance(value, numpy.ndarray) or str(value.dtype.name) not in BY_NAME:
            return None
        dtype, owner = BY_NAME[value.dtype.name], value
        while isinstance(owner.base, numpy.ndarray):
            owner = owner.base
        storage = self._buffers.get(id(owner))
        if storage is None:
            storage = self._buffers[id(owner)] = self._new_storage(owner, owner.nbytes, "cpu")
        shape = tuple(value.shape)
        stride = tuple(step // value.itemsize for step in value.strides)
        first = value.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
        return TensorInfo(
            name=name,
            dtype=dtype,
            shape=shape,
            storage=storage,
            explicit_stride=None if stride == contiguous_stride(shape) else stride,
            storage_offset=first // value.itemsize,
            kind=infer_kind(name, dtype, shape),
        )

    def is_known(self, tensor: Tensor) -> bool:
        """Whether the tensor, or its storage, already has a row."""
        if id(tensor) in self._seen:
            return True
        storage = _storage_of(tensor)
        return storage is not None and storage._cdata in self._storages

    def _strided(self, plain: TensorInfo, tensor: Tensor, shape: tuple[int, ...]) -> TensorInfo:
        untyped = _storage_of(tensor)
        layout = "quantized" if tensor.is_quantized else "strided"
        if untyped is None:
            return plain._replace(shape=shape, layout="wrapper" if plain.class_name else layout)
        storage = self._storages.get(untyped._cdata)
        if storage is None:
            storage = self._new_storage(untyped, untyped.nbytes(), str(tensor.device))
            self._storages[untyped._cdata] = storage
        stride = tensor.stride()
        return plain._replace(
            shape=shape,
            storage=storage,
            explicit_stride=None if stride == contiguous_stride(shape) else tuple(stride),
            storage_offset=int(tensor.storage_offset()),
            layout=layout,
        )

    def _nested(self, plain: TensorInfo, tensor: Tensor) -> TensorInfo:
        # Its rows differ in length, so it has no shape: a list of all elements stands for it.
        values = tensor.values() if hasattr(tensor, "_values") else tensor._nested_tensor_storage_offsets()
        parts = self._parts((("values", values),), plain.kind)
        return plain._replace(shape=(tensor.numel(),), layout="nested", parts=parts)

    def _parts(self, named: Iterable[tuple[str, Any]], kind: Kind) -> tuple[TensorInfo, ...]:
        return tuple(self.row(name, part, kind) for name, part in named if isinstance(part, Tensor))

    def _new_storage(self, owner: Any, nbytes: int, device: str) -> Storage:
        self._kept_alive.append(owner)
        return Storage(file="", key=str(len(self._kept_alive)), offset=None, nbytes=nbytes, device=device)


def _storage_of(tensor: Tensor) -> torch.UntypedStorage | None:
    try:
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError, ValueError):  # sparse, a wrapper, uninitialised
        return None


_dtypes: dict[torch.dtype, DType] = {}


def _dtype(dtype: torch.dtype) -> DType:
    """Our data type for torch's; one that is newer than our table gets a row of its own."""
    found = _dtypes.get(dtype)
    if found is None:
        name = str(dtype).removeprefix("torch.")
        found = BY_NAME.get(name) or DType(name, 8 * dtype.itemsize, _category(dtype))
        _dtypes[dtype] = found
    return found


def _category(dtype: torch.dtype) -> Literal["float", "complex", "integer"]:
    if dtype.is_complex:
        return "complex"
    return "float" if dtype.is_floating_point else "integer"


def _class_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _walk(root: nn.Module, source: str) -> tuple[list[tuple[str, nn.Module]], list[str]]:
    """
    Every path of every module, parents first; a shared module under each of its paths.
    """
    found: list[tuple[str, nn.Module]] = []
    notes: list[str] = []
    pending: list[tuple[str, nn.Module, tuple[int, ...]]] = [("", root, ())]
    while pending:
        path, module, above = pending.pop()
        if id(module) in above:
            notes.append(f"{visible(path)} is a module that holds itself; it is listed once")
            continue
        _check_registries(module, path, source)
        found.append((path, module))
        inside = (*above, id(module))
        children = [(f"{path}.{name}" if path else name, child, inside) for name, child in _children(module)]
        pending.extend(reversed(children))
    return found, notes


_REGISTRIES: tuple[tuple[str, type, str], ...] = (
    ("_parameters", Tensor, "a tensor"), ("_buffers", Tensor, "a tensor"), ("_modules", nn.Module, "a module")
)  # fmt: skip


def _check_registries(module: nn.Module, path: str, source: str) -> None:
    """Code that writes to ``_parameters`` and the like itself gets round what torch checks."""
    wrong, hint = "", None
    for registry, kind, what in _REGISTRIES:
        held: Any = getattr(module, registry, None)
        # A scripted module's registries are no mappings, but have items.
        if not hasattr(held, "items"):
            wrong = f"{registry} is {_a_type(held)}, not a dict"
            if registry not in vars(module):
                wrong, hint = f"has no {registry}", "its __init__ must call super().__init__()"
            break
        for name, value in held.items():
            if not isinstance(name, str):
                wrong = f"{registry} has the key {name!r}, which is not a string"
            elif value is not None and not isinstance(value, kind):
                wrong = f"{registry}[{name!r}] is {_a_type(value)}, not {what}"
    transient: Any = getattr(module, "_non_persistent_buffers_set", None)
    if not wrong and not isinstance(transient, Collection):
        wrong = f"_non_persistent_buffers_set is {_a_type(transient)}, not a set"
    if wrong:
        owner = f"{path}: " if path else ""
        raise DefinitionError(
            f"{visible(source)}: its module can't be listed", details=(visible(owner + wrong),), hint=hint
        )


def _a_type(value: object) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"


def _children(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    # add_module("name", None) is allowed, and torch's types don't know.
    children: Mapping[str, nn.Module | None] = module._modules
    for name, child in children.items():
        if child is not None:
            yield name, child


class _Attribute(NamedTuple):
    """A tensor or module that hangs on a module, or in a container that does."""

    path: str
    value: Any
    holder: str
    """Path of the plain attribute itself."""
    container: str
    """Type of the container in between; empty where there is none."""


def _plain_attributes(tree: Iterable[tuple[str, nn.Module]], kind: type) -> Iterator[_Attribute]:
    """Values of that type in plain attributes, and in lists, tuples, sets and dicts there."""
    visited: set[int] = set()
    for path, module in tree:
        if id(module) in visited:
            continue
        visited.add(id(module))
        for name, value in vars(module).items():
            if name in _OWN_ATTRIBUTES:
                continue
            holder = f"{path}.{name}" if path else name
            if isinstance(value, kind):
                yield _Attribute(holder, value, holder, "")
            elif isinstance(value, (list, tuple, set, frozenset, dict)):
                items = value.items() if isinstance(value, dict) else enumerate(value)
                for key, item in items:
                    if isinstance(item, kind):
                        yield _Attribute(f"{holder}.{key}", item, holder, type(value).__name__)


def _unregistered(tree: Iterable[tuple[str, nn.Module]], rows: _Rows) -> Iterator[TensorInfo]:
    """Tensors in plain attributes, unless they look into a registered one's storage."""
    for attribute in _plain_attributes(tree, Tensor):
        if not rows.is_known(attribute.value):
            kind: Kind = "parameter" if isinstance(attribute.value, nn.Parameter) else "other"
            yield rows.row(attribute.path, attribute.value, kind, declared=True)


def _hidden_modules(tree: list[tuple[str, nn.Module]], rows: _Rows) -> Iterator[str]:
    """A note for each plain attribute that keeps modules where nobody sees their parameters."""
    registered = {id(module) for _, module in tree}
    holders: dict[tuple[str, str], list[nn.Module]] = {}
    for attribute in _plain_attributes(tree, nn.Module):
        if id(attribute.value) not in registered:
            holders.setdefault((attribute.holder, attribute.container), []).append(attribute.value)
    for (holder, container), modules in holders.items():
        parameters = (parameter for module in modules for parameter in module.parameters())
        sizes = {id(parameter): _numel(parameter) for parameter in parameters if not rows.is_known(parameter)}
        if not sizes:
            continue
        owns = f"{_number(len(modules), 'module')} with {sum(sizes.values()):,} parameters"
        if not container:
            yield f"not counted: {visible(holder)} is a module that was never registered, {owns}"
            continue
        advice = "nn.ModuleDict" if container == "dict" else "nn.ModuleList"
        yield f"not counted: {visible(holder)} is a plain {container} of {owns}; {advice} would register them"


def _extra_states(tree: Iterable[tuple[str, nn.Module]]) -> Iterator[str]:
    """Names of what modules save by ``get_extra_state``: it may be anything."""
    for path, module in tree:
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            yield f"{path}.{_EXTRA_STATE}" if path else _EXTRA_STATE


def _saved_apart(tree: list[tuple[str, nn.Module]], rows: _Rows) -> Iterator[str]:
    """A note for each module that saves tensors of its own making, as quantized layers pack theirs."""
    for path, module in tree:
        if type(module)._save_to_state_dict is nn.Module._save_to_state_dict:
            continue
        saved: dict[str, Any] = {}
        try:
            module._save_to_state_dict(saved, "", keep_vars=True)
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001, S112  the user's code, and it may need values
            continue
        own = [
            name for name, value in flattened(saved) if isinstance(value, Tensor) and not rows.is_known(value)
        ]
        if own:
            holder = visible(path) or "the root"
            yield f"not counted: {holder} saves what is neither parameter nor buffer: {_listed(own)}"


def _numel(tensor: Any) -> int:
    return 0 if is_lazy(tensor) else int(tensor.numel())


def _lazy_note(names: list[str]) -> Iterator[str]:
    if names:
        what = _number(len(names), "tensor")
        yield f"{what} without a shape until the first forward pass, counted as 0: {_listed(names)}"


def _number(n: int, singular: str) -> str:
    return f"{n:,} {singular}{'' if n == 1 else 's'}"


def _listed(names: list[str]) -> str:
    shown = ", ".join(visible(name) for name in names[:_MOST_NAMED])
    return shown if len(names) <= _MOST_NAMED else f"{shown} and {len(names) - _MOST_NAMED:,} more"
