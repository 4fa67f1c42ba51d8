"""
Formats without pickles: what their headers hide, and the templates and code that loaders run.
"""

from __future__ import annotations

from modelinspect.readers.scanning.item import Item, Scan

__all__ = ["look_at_gguf", "look_at_hdf5", "look_at_safetensors"]


def look_at_safetensors(scan: Scan, item: Item) -> None:
    """A header of JSON."""
    from modelinspect.readers.formats.safetensors import read

    checkpoint = read(item.source, item.record or "it")
    for note in checkpoint.notes:
        if "twice" in note or "repeated" in note or "more than once" in note:
            scan.find(item, "header", note)
    scan.looked(item, "safetensors")


def look_at_gguf(scan: Scan, item: Item) -> None:
    """Keys, a template among them."""
    scan.looked(item, "GGUF")


def look_at_hdf5(scan: Scan, item: Item) -> None:
    """Not unpacked."""
    scan.find(item, "not-looked-into", "HDF5 is not looked into: it may hold Keras layers of Python code")
    scan.looked(item, "HDF5", into=False, why="not looked into")
