"""Write a GGUF file, tensor by tensor and a few million numbers at a time; and read what was written."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attar.registry.artifacts.files import whole_file
from attar.stages.artifacts.gguf.element_types import ELEMENT_TYPES, packed, tensor_type
from attar.stages.artifacts.gguf.ggml_library import quantized
from attar.stages.artifacts.gguf.header import Architecture, Origin, add_header
from attar.stages.artifacts.gguf.tensors import PlannedTensor
from attar.stages.runtime.progress import bar

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFWriter  # in an extra
    from torch import Tensor

MODEL = "model.gguf"


def write_gguf(
    path: Path,
    architecture: Architecture,
    origin: Origin,
    tensors: Sequence[PlannedTensor],
    add_vocabulary: Callable[[GGUFWriter], None],
) -> dict[str, int]:
    """Write the file; it appears when it is whole. Return the CRC-32 of each tensor's bytes as they were in memory, by name."""
    from gguf import GGUFWriter  # in an extra

    counter = bar("writing tensors", len(tensors), "tensors")
    digests = {}
    with whole_file(path) as temporary:
        writer = GGUFWriter(temporary, architecture.family.arch)
        add_header(writer, architecture, origin)
        add_vocabulary(writer)
        for tensor in tensors:
            _announce(writer, tensor)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        try:
            for tensor in tensors:
                digests[tensor.name] = _write(writer, tensor)
                counter.advance()
        finally:
            writer.close()
    return digests


def _announce(writer: GGUFWriter, tensor: PlannedTensor) -> None:
    import numpy as np  # with gguf

    kind = tensor_type(tensor.kind)
    # gguf-py wants the bytes' shape of what is given as bytes, and takes floats by their dtype
    writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.num_bytes, raw_dtype=kind)


def _write(writer: GGUFWriter, tensor: PlannedTensor) -> int:
    assert writer.fout is not None
    stream = writer.fout[0]
    writer.write_padding(stream, stream.tell())
    digest = num_written = 0
    try:
        for chunk in tensor.chunks():
            content = _bytes_of(_packed(chunk, tensor))
            digest = zlib.crc32(content, digest)
            num_written += len(content)
            stream.write(content)
    except ValueError as error:
        raise ValueError(f"{tensor.source}: {error}") from error
    assert num_written == tensor.num_bytes, f"{tensor.name} is {num_written} bytes long, not {tensor.num_bytes}"
    writer.write_padding(stream, num_written)
    return digest


def _packed(rows: Tensor, tensor: PlannedTensor) -> np.ndarray:
    kind = ELEMENT_TYPES[tensor.kind]
    by_library = kind.needs_library or (kind.heeds_importance and tensor.importance is not None)
    return quantized(rows, tensor.kind, tensor.importance) if by_library else packed(rows, tensor.kind)


def check_written(path: Path, tensors: Sequence[PlannedTensor], digests: dict[str, int]) -> None:
    """Read the file with gguf-py's reader. Raises ValueError unless every tensor is there, in its shape and type, byte for byte."""
    from gguf import GGUFReader  # in an extra

    counter = bar("reading back", len(tensors), "tensors")
    present = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    for tensor in tensors:
        read = present.pop(tensor.name, None)
        if read is None:
            raise ValueError(f"{path.name} lacks {tensor.name} when it is read back")
        shape = tuple(int(size) for size in reversed(read.shape))
        is_alike = shape == tensor.shape and read.tensor_type == tensor_type(tensor.kind)
        if not is_alike or _crc(read.data) != digests[tensor.name]:
            raise ValueError(f"{path.name}: {tensor.name} is not what was written when it is read back")
        counter.advance()
    if present:
        raise ValueError(f"{path.name} has {next(iter(present))}, which was not written")


def _crc(content: np.ndarray) -> int:
    return zlib.crc32(_bytes_of(content))


def _bytes_of(numbers: np.ndarray) -> memoryview:
    return numbers.reshape(-1).view("uint8").data
