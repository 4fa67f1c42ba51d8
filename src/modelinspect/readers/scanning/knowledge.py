"""
Which names are known to run code.

No list of this kind is ever complete, so nothing depends on it: whatever is not understood is a
finding anyway. The names below are those to shout about: what they do with their arguments, or
with what was pickled before, is whatever the author of the file likes.
"""

from __future__ import annotations

from modelinspect.readers.parts.pickle_symbols import Global
from modelinspect.readers.parts.torch_objects import is_understood
from modelinspect.readers.scanning.seen import Group

__all__ = ["LOADERS", "group_of", "is_dangerous"]

# Whole modules: processes, files, networks, other interpreters of Python, loaders of code.
_MODULES = frozenset({
    "_aix_support", "_ctypes", "_io", "_osx_support", "_posixsubprocess", "_pyrepl", "_pickle", "_socket",
    "_thread", "_winapi", "aiohttp", "antigravity", "asyncio", "atexit", "bdb", "cPickle", "cProfile",
    "cffi", "cgitb", "cloudpickle", "codeop", "commands", "compileall", "concurrent", "ctypes", "curses",
    "dbm", "dill", "dis", "distutils", "doctest", "ensurepip", "fileinput", "fsspec", "ftplib", "gc",
    "glob", "http", "httplib", "httpx", "idlelib", "imaplib", "imp", "importlib", "inspect", "jsonpickle",
    "lib2to3", "linecache", "mailcap", "marshal", "mmap", "modulefinder", "msvcrt", "multiprocessing",
    "nntplib", "nt", "ntpath", "numba", "numexpr", "os", "paramiko", "pdb", "pexpect", "pickle",
    "pickletools", "pip", "pipes", "pkgutil", "poplib", "popen2", "posix", "posixpath", "profile",
    "pstats", "pty", "py_compile", "pyclbr", "pydoc", "requests", "requests_html", "resource",
    "rlcompleter", "runpy", "sched", "select", "selectors", "setuptools", "shelve", "shutil", "signal",
    "site", "smtpd", "smtplib", "socket", "socketserver", "sqlite3", "ssl", "subprocess", "symtable",
    "sys", "sysconfig", "syslog", "tarfile", "telnetlib", "tempfile", "threading", "timeit", "tkinter",
    "trace", "tracemalloc", "turtle", "turtledemo", "unittest", "urllib", "urllib2", "urllib3", "uu",
    "venv", "webbrowser", "winreg", "wsgiref", "xmlrpc", "xmlrpclib", "zipapp", "zipfile", "zipimport",
})  # fmt: skip
_PACKAGES = (
    "logging.config", "logging.handlers", "test.support", "torch._dynamo", "torch._inductor",
    "torch._jit_internal", "torch._functorch", "torch.fx", "torch.hub", "torch.jit",
    "torch.utils._config_module", "torch.utils.bottleneck", "torch.utils.collect_env",
    "torch.utils.cpp_extension", "torch.utils.data.datapipes", "torch.testing", "torch.distributed.rpc",
    "torch.multiprocessing", "torch.package", "torch.onnx", "torch.ops", "torch.classes", "torch._C",
    "torch._ops", "torch.utils.show_pickle", "torch.utils.file_baton", "torch.utils.model_dump",
    "torch.distributed.launcher", "torch.distributed.run", "torch.distributed.elastic", "numpy.testing",
    "numpy.f2py", "numpy.distutils", "numpy.lib.npyio", "numpy.ctypeslib", "numpy.lib._npyio_impl",
    "numpy.lib.format", "numpy.lib._format_impl", "keras.models", "keras.saving", "keras.utils",
    "tensorflow.io", "tensorflow.python", "joblib.externals", "pandas.io", "pandas.core.computation",
    "scipy.io", "sklearn.externals", "IPython", "nltk.downloader", "pydantic.v1.utils", "win32com", "cgi",
)  # fmt: skip
_BUILTINS = frozenset({
    "__build_class__", "__import__", "__loader__", "apply", "breakpoint", "callable", "compile",
    "delattr", "dir", "eval", "exec", "execfile", "exit", "file", "filter", "getattr", "globals",
    "hasattr", "help", "input", "intern", "iter", "locals", "map", "memoryview", "next", "open", "print",
    "quit", "reduce", "reload", "setattr", "super", "type", "vars", "zip", "sorted", "max", "min", "any",
    "all", "sum", "property", "staticmethod", "classmethod", "license", "credits", "copyright",
    "raw_input",
})  # fmt: skip
_NAMES = frozenset({
    "_functools.partial", "_functools.reduce", "_operator.attrgetter", "_operator.call",
    "_operator.itemgetter", "_operator.methodcaller", "_codecs.lookup", "_codecs.open", "codecs.open",
    "codecs.lookup", "ast.literal_eval", "ast.parse", "bz2.open", "bz2.BZ2File", "gzip.open",
    "gzip.GzipFile", "lzma.open", "lzma.LZMAFile", "collections.namedtuple", "collections._sys",
    "dataclasses.make_dataclass", "functools.partial", "functools.partialmethod", "functools.reduce",
    "functools.singledispatch", "functools.cached_property", "itertools.accumulate", "itertools.starmap",
    "itertools.filterfalse", "itertools.takewhile", "itertools.dropwhile", "joblib.load",
    "joblib.numpy_pickle.load", "joblib.memory.Memory", "keras.utils.get_file", "numpy.load",
    "numpy.loadtxt", "numpy.genfromtxt", "numpy.fromfile", "numpy.memmap", "numpy.save", "numpy.savez",
    "numpy.core.memmap", "numpy.vectorize", "numpy.apply_along_axis", "numpy.fromfunction",
    "numpy.frompyfunc", "numpy.piecewise", "numpy.savetxt", "numpy.matlib.load",
    "numpy.core.multiarray.fromfile", "numpy._core.multiarray.fromfile", "numpy.core.records.fromfile",
    "numpy.core._internal.eval", "numpy.core._exceptions.pickle", "operator.attrgetter", "operator.call",
    "operator.itemgetter", "operator.methodcaller", "operator.setitem", "operator.delitem",
    "platform.popen", "platform._syscmd_ver", "string.Formatter", "torch.load", "torch.save",
    "torch.from_file", "torch.compile", "torch.serialization.load", "torch.serialization.save",
    "torch.serialization._load", "torch.serialization._legacy_load", "torch.storage._load_from_bytes",
    "torch._utils._import_dotted_name", "torch.utils.data._utils.worker._worker_loop",
    "torch._weights_only_unpickler.load", "torch.set_default_tensor_type",
    "torch.utils.checkpoint.checkpoint", "torch.utils.model_zoo.load_url", "torch.vmap",
    "torch.func.vmap", "torch.autograd.Function.apply", "torch.distributed._pickler",
    "pandas.read_pickle", "pandas.eval", "pandas.DataFrame.eval", "pandas.DataFrame.query", "yaml.load",
    "yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "dataclasses._create_fn", "cgi.test",
    "code.interact", "code.InteractiveConsole", "code.InteractiveInterpreter", "copyreg.pickle",
    "copyreg.add_extension", "io.open", "io.FileIO", "io.OpenWrapper", "io.open_code", "types.CodeType",
    "types.FunctionType", "types.LambdaType", "types.MethodType", "types.ModuleType",
    "types.DynamicClassAttribute", "types.prepare_class", "types.new_class", "logging.FileHandler",
    "logging.basicConfig", "getpass.getpass", "uuid._get_command_stdout", "uuid._popen",
    "pathlib.Path.write_text", "pathlib.Path.write_bytes", "pathlib.Path.open", "pathlib.Path.unlink",
    "pathlib.Path.read_text", "pathlib.Path.read_bytes", "token.main", "tokenize.main", "tokenize.open",
    "json.tool.main", "base64.main", "ast.main", "optparse.OptionParser", "enum._make_class_unpicklable",
    "typing.get_type_hints",
})  # fmt: skip
LOADERS = frozenset({
    "pickle.loads", "_pickle.loads", "cPickle.loads", "dill.loads", "dill._dill.loads",
    "cloudpickle.loads", "cloudpickle.cloudpickle.loads", "torch.storage._load_from_bytes", "torch.load",
    "torch.serialization.load", "marshal.loads", "joblib.load", "numpy.load", "io.BytesIO", "_io.BytesIO",
})  # fmt: skip
"""What reads a file out of bytes that it is given: those are looked into, too."""

# Anywhere in a dotted name of protocol 4: a module reached through another one's attributes.
_REACHED = frozenset({
    "os", "sys", "subprocess", "posix", "nt", "builtins", "__builtins__", "importlib", "shutil", "socket",
    "ctypes", "pickle", "runpy", "marshal", "__globals__", "__subclasses__", "__getattribute__",
    "__dict__", "__import__", "__reduce__", "__init__", "__class__", "__mro__", "__base__", "__code__",
})  # fmt: skip

_MAX_PARTS = 12

# Plain data of libraries that checkpoints consist of: nothing of it takes a function.
_DATA = frozenset({
    "numpy._core.numeric._frombuffer", "numpy.core.numeric._frombuffer", "datetime.date", "datetime.datetime",
    "datetime.time", "datetime.timedelta", "datetime.timezone",
    "torch.distributed.checkpoint.metadata.Metadata",
    "torch.distributed.checkpoint.metadata.MetadataIndex",
    "torch.distributed.checkpoint.metadata.TensorStorageMetadata",
    "torch.distributed.checkpoint.metadata.BytesStorageMetadata",
    "torch.distributed.checkpoint.metadata.ChunkStorageMetadata",
    "torch.distributed.checkpoint.metadata.TensorProperties",
    "torch.distributed.checkpoint.metadata._MEM_FORMAT_ENCODING",
    "torch.distributed.checkpoint.metadata.StorageMeta",
    "torch.distributed.checkpoint.filesystem._StorageInfo", "numpy.random._pickle.__bit_generator_ctor",
    "numpy.random._pickle.__generator_ctor", "numpy.random._pickle.__randomstate_ctor",
})  # fmt: skip

_NUMPY_SCALARS = frozenset({
    "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "bool_", "bool", "complex64", "complex128",
})  # fmt: skip
_PATHS = frozenset({"Path", "PurePath", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"})


def _is_data(name: Global) -> bool:
    """A class of plain values, or a function that makes one."""
    if name.module == "numpy":
        return name.name in _NUMPY_SCALARS
    if name.module in ("pathlib", "pathlib._local"):
        return name.name in _PATHS
    return name.dotted in _DATA


def is_dangerous(dotted: str) -> bool:
    """Is the name one of those known to run what they are given?"""
    parts = dotted.split(".")
    if any(".".join(parts[:length]) in _NAMES for length in range(2, min(len(parts), _MAX_PARTS) + 1)):
        return True
    top, _, rest = dotted.partition(".")
    if top in ("builtins", "__builtin__"):
        return rest.partition(".")[0] in _BUILTINS or "." in rest
    if top in _MODULES:
        return True
    return any(dotted.startswith(package + ".") for package in _PACKAGES)


def group_of(name: Global, script: bool = False) -> Group:
    """
    What is known of a name.

    Args:
        name: As a pickle gives it; its meaning is set.
        script: The pickle belongs to a TorchScript archive, whose classes are no Python.
    """
    dotted = name.dotted
    if name.computed or dotted in LOADERS:
        return "executes code"
    parts = dotted.split(".")
    if is_understood(name) or _is_data(name):
        # Protocol 4 reaches attributes of what it names: only whole names are understood.
        return "understood"
    if script and (parts[0] == "__torch__" or dotted.startswith("torch.jit._pickle.")):
        return "understood"
    if is_dangerous(dotted) or not _REACHED.isdisjoint(parts[1:]):
        return "executes code"
    if "." in name.name and _reaches(name.name.split(".")):
        return "executes code"
    return "unknown"


def _reaches(parts: list[str]) -> bool:
    """Do attributes lead to a name that is dangerous, or to what a path or file can do?"""
    if parts[0] in ("Path", "PosixPath", "WindowsPath"):
        return True
    tails = range(min(len(parts) - 1, _MAX_PARTS))
    return any(is_dangerous(".".join(parts[at:])) for at in tails)
