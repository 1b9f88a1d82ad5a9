"""llama.cpp's own library, where it is installed: it rounds to the types that gguf-py can only read."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from attar.stages.artifacts.gguf.element_types import ELEMENT_TYPES, row_bytes, tensor_type

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

# The folder in which `npm install node-llama-cpp` was run, or a folder of another build of llama.cpp.
LLAMA_CPP_FOLDER = "ATTAR_LLAMA_CPP"
INSTALL = f"npm install node-llama-cpp, and its folder in {LLAMA_CPP_FOLDER}"
LIBRARY = "libggml-base.so"
# Of node-llama-cpp, and of a build of llama.cpp itself.
FOLDERS = (
    "node_modules/@node-llama-cpp/linux-x64/bins/linux-x64",
    "node_modules/@node-llama-cpp/linux-arm64/bins/linux-arm64",
)
BUILDS = (".", "bin", "lib", "build/bin")
_SIZES = ctypes.c_int64


def find_library() -> Path | None:
    """Return the library's file in the folder that the environment names; None where there is none."""
    given = os.environ.get(LLAMA_CPP_FOLDER, "")
    paths = (Path(given).expanduser() / folder / LIBRARY for folder in (*FOLDERS, *BUILDS))
    return next((path for path in paths if given and path.is_file()), None)


def quantized(rows: Tensor, name: str, importance: Tensor | None) -> np.ndarray:
    """Return float rows (N, K) as the bytes of a type, (N, bytes a row). `importance` (K): what the square error of a column weighs.

    Raises ValueError without the library, and where it does not know the type by its number.
    """
    import numpy as np  # with gguf

    library, kind = _opened(), int(tensor_type(name))
    _refuse_other_numbers(library, kind, name)
    source = np.ascontiguousarray(rows.float().numpy().reshape(-1, rows.shape[-1]))
    weights = None if importance is None else np.ascontiguousarray(importance.float().numpy())
    made = np.empty((len(source), row_bytes(source.shape[1], name)), dtype=np.uint8)
    pointer = None if weights is None else weights.ctypes.data_as(ctypes.c_void_p)
    num_bytes = library.ggml_quantize_chunk(kind, source.ctypes.data, made.ctypes.data, 0, *source.shape, pointer)
    if num_bytes != made.nbytes:
        raise ValueError(f"llama.cpp's library wrote {num_bytes} bytes of {name}, not {made.nbytes}")
    return made.reshape(*rows.shape[:-1], made.shape[1])


@cache
def _opened() -> ctypes.CDLL:
    path = find_library()
    if path is None:
        raise ValueError(f"llama.cpp's library {LIBRARY} is not there: {INSTALL}")
    library = ctypes.CDLL(str(path))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        *(_SIZES, _SIZES, _SIZES),
        ctypes.c_void_p,
    ]
    library.ggml_type_name.restype, library.ggml_type_name.argtypes = ctypes.c_char_p, [ctypes.c_int]
    return library


def _refuse_other_numbers(library: ctypes.CDLL, kind: int, name: str) -> None:
    """Raise ValueError where the library calls a type's number otherwise than the package that writes the file does."""
    known = (library.ggml_type_name(kind) or b"").decode()
    if known.lower() != ELEMENT_TYPES[name].tensor_name.lower():
        raise ValueError(f"llama.cpp's library calls type {kind} {known!r}, not {name!r}: it is of another release")
