"""The pictures of a data set by path: each is looked at once, however many rows show it.

What is found is kept in the cache directory by content, with a quick way from a file's path, size
and times to its content. So data that are read again cost one `stat` for each picture, and pictures
that lie elsewhere by now are hashed but not decoded. The processes start when there are many
pictures to decode, or one that might hang or end the process which decodes it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import PIL

from virgo_ray.closing import Closing
from virgo_ray.data import near_duplicates
from virgo_ray.data.fact_file import FactFile, digest_code, make_key
from virgo_ray.data.gallery import facts
from virgo_ray.data.gallery.facts import PictureFacts, PictureFault, hash_file, look_at
from virgo_ray.data.gallery.pool import Job, PicturePool, Result
from virgo_ray.data.near_duplicates import PerceptualHash
from virgo_ray.data.progress import IngestProgress
from virgo_ray.model import images
from virgo_ray.model.images import join_hashes

# So few are looked at in this process: starting another one takes longer.
MAX_NUM_HERE = 64
MAX_BYTES_HERE = 4 << 20
# PNG and JPEG files have decoders that neither hang nor die, if a JPEG has not thousands of scans.
PNG_START, JPEG_START, JPEG_SCAN = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\xff\xda"
MAX_SCANS = 32


class Gallery(Closing):
    """Facts of pictures, by path; a context that ends its processes.

    Example: `with Gallery(cache) as gallery: gallery.examine(paths)`; then `gallery.fault(path)` is
    None or says what is wrong, and `gallery.looks[path]` says what a sound one looks like.
    """

    def __init__(
        self,
        cache_dir: Path,
        progress: IngestProgress | None = None,
        pool: PicturePool | None = None,
    ) -> None:
        code = digest_code(images.__file__, near_duplicates.__file__, facts.__file__)
        self._file = FactFile(cache_dir, "pictures", code, PIL.__version__)
        self.progress = progress or IngestProgress()
        self._pool = pool or PicturePool()
        self._seen: dict[str, PictureFacts | PictureFault] = {}
        self._hashes: dict[str, str] = {}  # of files that need not be decoded yet
        self._file_keys: dict[str, str] = {}

    def close(self) -> None:
        """Write what was learnt, and end the processes."""
        self._file.flush()
        self._pool.close()

    # -- what is known -----------------------------------------------------------------------------

    def fault(self, path: str) -> PictureFault | None:
        """What is wrong with a picture that was examined."""
        found = self._seen[path]
        return found if isinstance(found, PictureFault) else None

    def size(self, path: str) -> tuple[int, int]:
        """(width, height) of a sound picture that was examined."""
        return self._sound(path).size

    def is_one_colour(self, path: str) -> bool:
        """Whether a sound picture that was examined shows nothing."""
        return self._sound(path).look.is_one_colour

    @property
    def looks(self) -> dict[str, PerceptualHash]:
        """What every sound picture looks like."""
        return {
            path: found.look
            for path, found in self._seen.items()
            if isinstance(found, PictureFacts)
        }

    def pixels(self, path: str) -> bytes:
        """Hash of what a sound picture that was examined shows, however its file is written."""
        return self._sound(path).pixels.encode()

    def image_hash(self, paths: Sequence[str]) -> str:
        """`model.images.image_hash` of sound pictures that were examined or hashed."""
        return join_hashes([self._hashes[path] for path in paths])

    def has_hash(self, path: str) -> bool:
        return path in self._hashes

    def _sound(self, path: str) -> PictureFacts:
        found = self._seen[path]
        assert isinstance(found, PictureFacts), f"{path} has a fault: {found}"
        return found

    # -- finding it out ----------------------------------------------------------------------------

    def examine(self, paths: Iterable[str]) -> None:
        """Look at these pictures, as far as that is not known yet.

        Raises:
            DataError: no process that decodes pictures can be started.
        """
        new = [path for path in dict.fromkeys(paths) if path not in self._seen]
        unknown = [path for path in new if not self._recall(path)]
        if self._file.is_old:  # perhaps they are known under other paths
            self._hash(unknown)
            unknown = [path for path in unknown if not self._recall_content(path)]
        self._look(unknown, is_decoded=True)

    def hash(self, paths: Iterable[str]) -> None:
        """Hash the files of these pictures, as far as that is not known yet."""
        new = [path for path in dict.fromkeys(paths) if path not in self._hashes]
        self._hash([path for path in new if not self._recall(path)])

    def _hash(self, paths: Sequence[str]) -> None:
        files = [path for path in paths if path in self._file_keys and path not in self._hashes]
        self._look(files, is_decoded=False)

    def _look(self, paths: Sequence[str], is_decoded: bool) -> None:
        jobs = [Job(path, is_decoded) for path in paths]
        what = "pictures decoded" if is_decoded else "pictures hashed"
        with self.progress.step(what, len(jobs)) as count:
            for job, result in self._results(jobs):
                self._keep(job.path, result)
                count()

    def _results(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Result]]:
        here = set() if self._pool.is_running else _cheap_jobs(jobs)
        for job in jobs:
            if job in here:
                yield job, look_at(job.path) if job.is_decoded else hash_file(job.path)
        yield from self._pool.run([job for job in jobs if job not in here])

    # -- the cache ---------------------------------------------------------------------------------

    def _keep(self, path: str, result: Result) -> None:
        key = self._file_keys.get(path)
        if isinstance(result, str):
            self._hashes[path] = result
            if key:
                self._file.put(key, result)
            return
        if isinstance(result, PictureFacts):
            self._hashes[path] = result.sha256
            self._file.put(_content_key(result.sha256), result.to_json())
            if key:
                self._file.put(key, result.sha256)
        elif key and result.is_lasting:
            self._file.put(key, result.to_json())
        self._seen[path] = result

    def _recall(self, path: str) -> bool:
        """Whether the file is known, as it is now: its content, or what is wrong with it."""
        key = _file_key(path)
        if key is None:
            return False
        self._file_keys[path] = key
        known = self._file.get(key)
        if isinstance(known, dict):
            self._seen[path] = PictureFault.from_json(known)
            return True
        if known is not None:
            self._hashes[path] = known
        return known is not None and self._recall_content(path)

    def _recall_content(self, path: str) -> bool:
        """Whether a picture of the same content was decoded before."""
        known = self._file.get(_content_key(self._hashes[path])) if path in self._hashes else None
        if known is None:
            return False
        self._seen[path] = PictureFacts.from_json(known)
        key = self._file_keys.get(path)
        if key and key not in self._file:
            self._file.put(key, self._hashes[path])
        return True


def _file_key(path: str) -> str | None:
    """Of a file as it lies there now; None where there is none."""
    found = _stat(path)
    if found is None or not stat.S_ISREG(found.st_mode):
        return None
    return make_key("file", path, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _content_key(sha256: str) -> str:
    return make_key("content", sha256)


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (OSError, ValueError):  # ValueError: a path with a null character
        return None


def _cheap_jobs(jobs: Sequence[Job]) -> set[Job]:
    """Those that need no other process; none where all together are worth one."""
    found = [_stat(job.path) for job in jobs[: MAX_NUM_HERE + 1]]
    num_bytes = sum(one.st_size for one in found if one is not None)
    if len(jobs) > MAX_NUM_HERE or num_bytes > MAX_BYTES_HERE:
        return set()
    return {job for job in jobs if not job.is_decoded or _is_plain(job.path)}


def _is_plain(path: str) -> bool:
    """Whether a picture is decoded, or refused, in a time that is known to be short."""
    if _file_key(path) is None:
        return True
    try:
        content = Path(path).read_bytes()
    except OSError:
        return True
    if content.startswith(JPEG_START):
        return content.count(JPEG_SCAN) <= MAX_SCANS
    return not content or content.startswith(PNG_START)
