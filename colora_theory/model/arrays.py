"""Arrays by name in one npz file: read without running anything that stands there, written the same every time."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np


def read_npz(content: bytes) -> dict[str, Any]:
    """Arrays of an npz file; ValueError for objects, zipfile.BadZipFile for what is no such file."""
    out = {}
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        for name in file.namelist():
            with file.open(name) as member:
                out[name.removesuffix(".npy")] = np.lib.format.read_array(member, allow_pickle=False)
    return out


def written_npz(arrays: Mapping[str, Any]) -> bytes:
    """The arrays as an npz file: the same bytes for the same arrays, without dates."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.asarray(array), allow_pickle=False, version=(1, 0))
            file.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue(), zipfile.ZIP_DEFLATED, 9)
    return out.getvalue()
