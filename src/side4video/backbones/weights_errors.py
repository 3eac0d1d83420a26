"""What reading a damaged or hostile weights file raises, and what to say of it.

PyTorch reads `.pt` files with a closed list of what may be in them (`weights_only`), and raises whatever comes to its
hand when a file is damaged. An archive with compressed members, which PyTorch never writes, could become a thousand
times larger than it is, and is refused before it is read.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path

from safetensors import SafetensorError

DAMAGE = (
    SafetensorError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    AssertionError,
    ArithmeticError,
    MemoryError,
    NotImplementedError,
)
"""All that is known to come of reading a file that is no weights file, or a damaged one."""


def check_archive(path: Path) -> None:
    """Refuse an archive that is compressed.

    Raises:
        ValueError: it is.
        OSError, zipfile.BadZipFile: it cannot be read.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            packed = [info.filename for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise ValueError(f"its part {packed[0]!r} is compressed, which no weights file is")


def damage_reason(error: BaseException) -> str:
    """One short line; PyTorch's own advice to read the file without the list is not passed on."""
    if isinstance(error, pickle.UnpicklingError):
        return "it is damaged, or holds more than tensors and plain containers"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
