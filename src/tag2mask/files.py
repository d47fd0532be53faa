"""Files that appear whole or not at all, JSON that is read with a clear word, and digests of content."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import itertools
import json
import os
import platform
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from tag2mask.errors import InputError

DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)


@contextlib.contextmanager
def atomic(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A file that appears whole or not at all: written under a temporary name in the same folder, flushed, renamed.

    Raises:
        InputError: the disk is full, or the file is larger than the system allows.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # the temporary name does not repeat the file's, which may be as long as a name can be; it is nobody else's, since
    # other threads, and processes of other machines with the same number, may write the same file
    temporary = path.with_name(f".{secrets.token_hex(12)}.tmp")
    try:
        with temporary.open(mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except IsADirectoryError as error:
        raise InputError(f"{path} is a folder, and a file is to be written there: rename or remove it") from error
    except OSError as error:
        if error.errno in DISK_FULL:
            raise InputError(
                f"disk full while writing {path} ({error.strerror}): free some space and run the same command "
                "again; finished work is kept"
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: object) -> None:
    with atomic(path) as file:
        json.dump(content, file, indent=1, sort_keys=False)
        file.write("\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: it is not valid JSON.
        FileNotFoundError: it is not there.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no JSON, no text, a number of too many digits; too deep
        raise InputError(f"{path} is not valid JSON ({type(error).__name__}): it is damaged") from error


def read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file of ours; None where there is none, or something else."""
    try:
        content = read_json(path)
    except (OSError, InputError):
        return None
    return content if isinstance(content, dict) else None


def write_sealed(path: Path, content: dict[str, Any]) -> None:
    """A JSON object with the digest of itself, so that :func:`read_sealed` knows damage that is still JSON."""
    write_json(path, {**content, "check": digest(content)})


def read_sealed(path: Path) -> dict[str, Any] | None:
    """What :func:`write_sealed` wrote, without the digest; None where there is none, or it is damaged."""
    content = read_object(path) or {}
    check = content.pop("check", None)
    return content if check == digest(content) else None


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, none when there is no file; a line cut by an interruption is left out."""
    return list(iterate_jsonl(path))


def iterate_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """:func:`read_jsonl`, one at a time: of a million photos the objects take gigabytes."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):  # no JSON, a number of too many digits
                continue
            if isinstance(line, dict):
                yield line


def end_last_line(path: Path) -> None:
    """End the last line of a file of JSON lines that an interruption cut, so that what is added is not a part of it."""
    try:
        with path.open("rb+") as file:
            if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) is not None and file.read(1) != b"\n":
                file.write(b"\n")
    except FileNotFoundError:
        pass


def digest(content: object) -> str:
    """Sixteen hex digits that change when anything in ``content`` (plain JSON data) does."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def digest_of_rows(rows: Iterable[object], *more: object) -> str:
    """:func:`digest` of ``[*rows]``, or of ``[[*rows], *more]``, of which a few thousand are held at a time."""
    hasher, rows, between = hashlib.blake2b(digest_size=8), iter(rows), ""
    hasher.update(b"[[" if more else b"[")
    while part := [*itertools.islice(rows, 4096)]:
        text = between + json.dumps(part, sort_keys=True, default=str)[1:-1]
        hasher.update(text.encode("utf-8", "surrogatepass"))
        between = ", "
    hasher.update(b"]")
    for content in more:
        hasher.update(f", {json.dumps(content, sort_keys=True, default=str)}".encode("utf-8", "surrogatepass"))
    hasher.update(b"]" if more else b"")
    return hasher.hexdigest()


def bytes_digest(path: Path) -> str:
    """32 hex digits of a file's bytes (blake2b), read in parts."""
    hasher = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            hasher.update(part)
    return hasher.hexdigest()


def cache_folder() -> Path:
    """The user's cache folder for tag2mask."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "tag2mask"


def check_outside_runs(out: Path, *, is_run: bool = False) -> None:
    """Refuse to write into a run, by whatever path.

    Args:
        is_run: ``out`` is to be one itself.

    Raises:
        InputError: ``out`` lies in one, or its links lead in a circle.
    """
    try:
        out.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InputError(f"--out {out} cannot be: its links lead in a circle; give another folder") from error
    real = out.resolve()
    above = real.parents if is_run else (real, *real.parents)
    inside = next((folder for folder in above if (folder / "run.json").exists()), None)
    if inside is not None:
        raise InputError(
            f"--out {out} lies in the run folder {inside}, whose masks it could replace: give another folder"
        )


def check_own_folder(out: Path, mark: str) -> None:
    """Refuse a folder with anything but what earlier calls of one kind wrote: new files could replace others there.

    Args:
        mark: a file that only such calls write.

    Raises:
        InputError: there is something else, ``out`` is a file, or it lies in a run.
    """
    check_outside_runs(out)
    above = next(folder for folder in (out, *out.parents) if folder.exists())
    if not above.is_dir():
        raise InputError(f"--out {out}: {above} is a file; give a folder")
    if above != out or (out / mark).is_file():
        return
    other = min((path.name for path in out.iterdir() if not path.name.startswith(".")), default=None)
    if other is not None:
        raise InputError(
            f"--out {out} holds files that no earlier such command wrote ({other}), which could be replaced: give a "
            "new folder"
        )


def _being_filled(out: Path, process: int | str) -> Path:
    """The folder that a process of this machine fills for ``out``: next to it, so that relative paths stay right."""
    return out.with_name(f".{out.name[:100]}.{platform.node()[:60]}-{process}.writing")


def _remove_what_killed_processes_left(out: Path) -> None:
    """Folders for ``out`` that processes of this machine began to fill and that nobody fills any more."""
    if sys.platform == "win32":  # which has no way to ask for a process that does not also end it
        return
    start, end = _being_filled(out, "|").name.split("|")
    for place in out.parent.glob(f"{glob.escape(start)}*{end}"):
        process = place.name.removeprefix(start).removesuffix(end)
        if not process.isdecimal():
            continue
        try:
            os.kill(int(process), 0)  # sends nothing
        except ProcessLookupError:
            shutil.rmtree(place, ignore_errors=True)
        except (OSError, OverflowError):  # somebody else's process; no process
            continue


@contextlib.contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder to fill that appears at ``out`` when all of it is written; after an error nothing of it is left, and
    what a killed process left is removed.

    Raises:
        InputError: ``out`` is there and not empty, or is a file.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is there and not empty: nothing is written over; give another --out, or remove it")
    made = [folder for folder in out.parents if not folder.exists()]
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_what_killed_processes_left(out)
    inside = _being_filled(out, os.getpid())
    shutil.rmtree(inside, ignore_errors=True)
    inside.mkdir()
    try:
        yield inside
        if out.exists():
            out.rmdir()
        inside.replace(out)
    finally:
        shutil.rmtree(inside, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):  # it holds what was written
                folder.rmdir()
