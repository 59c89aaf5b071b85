"""Runs a study: hands chunks to workers, stores what comes back, survives what goes wrong, resumes."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from colora_theory.engine import memory
from colora_theory.engine.machine import manifest
from colora_theory.engine.pools import Pool, open_pool, worker_count
from colora_theory.engine.progress import Progress
from colora_theory.engine.real_trial import check_data
from colora_theory.engine.schedule import Chunk, Schedule, Shard
from colora_theory.engine.stopping import Stopping
from colora_theory.engine.trial import Recipe, run_chunk
from colora_theory.errors import InputError, expect
from colora_theory.model.checks import check_flag
from colora_theory.results.identity import describe, describe_folder
from colora_theory.results.results import Results
from colora_theory.results.rows import FAILURES
from colora_theory.results.store import FILE, malformed
from colora_theory.results.writer import Writer
from colora_theory.studies.study import Study


def run(
    study: Study,
    out: str | Path | None = None,
    *,
    n_jobs: int = 1,
    shard: str | tuple[int, int] | None = None,
    backend: str = "loky",
    scheduler: str | None = None,
    accept_version: bool = False,
    retry_failed: str | None = None,
    quiet: bool = True,
) -> Results:
    """Run the trials of `study` that are not stored yet, and return its results.

    Parameters
    ----------
    out : folder of the results, default runs/<name>. A folder with results of the same study is resumed.
    n_jobs : local worker processes; -1 for one per core. Trials always run in workers, also for n_jobs = 1,
        so that a fit that crashes or hangs costs a row and not the study.
    shard : "i/N" or (i, N): run only part i of N, to be merged later (i = 0 is the same part as i = N).
    backend : "loky" (local), "dask" (with `scheduler`, an address), or "inline" (this process, for debugging).
    accept_version : resume although versions of the packages have changed.
    retry_failed : run failed rows again: "all", or the statuses ("crashed,timeout") to run again. Rows that failed
        for a reason outside the fit need it; the manifest records it.
    quiet : tell no progress on stderr.

    Results do not depend on n_jobs, shard or backend, nor on interruptions. On KeyboardInterrupt everything
    finished is stored, and the same call resumes. Raises InputError before any work for what cannot be run.
    """
    expect("study", study, Study, "read one with ct.Study.from_toml(path)")
    part = _shard(shard)
    workers = worker_count(n_jobs, backend)
    if backend != "dask":
        memory.check(study, workers)
    expect("out", out, (str, Path, type(None)), "give the folder of the results")
    expect("retry_failed", retry_failed, (str, type(None)), 'give "all", or statuses such as "crashed,timeout"')
    check_flag("accept_version", accept_version)
    data = check_data(study)
    folder = default_out(study, part) if out is None else Path(out)
    pool = open_pool(backend, workers, scheduler)
    try:
        recipe = Recipe.of(study)
        now = manifest(study.seed) | ({} if data is None else {"data_sha256": data})
        with malformed(folder / FILE):
            writer = Writer(folder, study, recipe.columns, lambda file: describe(study, file, now, accept_version))
            try:
                if retry_failed is not None:
                    _retry(writer, retry_failed)
                describe_folder(folder, study, writer.about["manifest"])
                stopping = Stopping(study, writer.values) if study.run.target_mcse else None
                schedule = Schedule(study, writer.stored(study.run.most_trials), part, pool.slots, stopping)
                progress = Progress(schedule.trials_left, quiet=quiet)
                _work(schedule, recipe, pool, writer, progress, study.run.run_ends)
            finally:
                writer.close()
    finally:
        pool.close()
    return Results.open(folder)


def default_out(study: Study, shard: Shard | None = None) -> Path:
    """Return the folder a study's results go to unless told otherwise."""
    name = study.name + ("-quick" if study.quick else "")
    if shard is not None and shard.count > 1:
        name += f"-shard-{shard.index}-of-{shard.count}"
    return Path("runs") / name


def _work(
    schedule: Schedule,
    recipe: Recipe,
    pool: Pool,
    writer: Writer,
    progress: Progress,
    ends: Callable[[float], str],
) -> None:
    """Run what is left, until nothing is or `ends` says of the seconds spent why to start no further trial."""
    under_way: dict[Future[Any], tuple[Chunk, float, Path]] = {}
    start, last, trials = time.monotonic(), 0.0, 0
    reason = ""
    with TemporaryDirectory(prefix="colora-theory-") as notes:
        numbers = itertools.count()
        try:
            while True:
                reason = reason or ends(time.monotonic() - start)
                while not reason and len(under_way) < pool.slots and not _exclusive(under_way, pool):
                    chunk = schedule.take(isolated=pool.isolating or not under_way)
                    if chunk is None:
                        break
                    note = Path(notes) / str(next(numbers))
                    where = str(note) if pool.shares_files else ""
                    future = pool.submit(run_chunk, recipe, chunk.segments, pool.in_worker, where)
                    under_way[future] = chunk, time.monotonic(), note
                if not under_way:
                    break
                finished = wait(under_way, timeout=0.5, return_when=FIRST_COMPLETED).done
                if not finished:
                    pool.watch(progress.say)
                for future in finished:
                    chunk, since, note = under_way.pop(future)
                    outcome = pool.collect(future)
                    if isinstance(outcome, str):
                        late = time.monotonic() - since >= 2 * recipe.timeout + 1
                        hung = note.exists() and note.stat().st_size > 0 if pool.shares_files else late
                        rows = schedule.died(chunk, len(recipe.columns), hung, outcome)
                        progress.say(f"a worker died ({outcome}); its trials are run again, one by one")
                    else:
                        rows = outcome.rows
                        schedule.measured(chunk, outcome.trials, outcome.seconds)
                        schedule.put_back(outcome.left)
                        trials += outcome.trials
                    note.unlink(missing_ok=True)
                    writer.add(rows)
                    schedule.stored_now(rows)
                    progress.update(schedule.trials_left, sum(r.status in FAILURES for r in rows))
                if time.monotonic() - last > 1.0:
                    last = time.monotonic()
                    writer.set_meta(progress=_speed(schedule, trials, last - start))
                writer.tick()
        finally:
            writer.set_meta(progress=_speed(schedule, trials, time.monotonic() - start))
            if reason and schedule.trials_left:
                progress.say(f"{reason}: {schedule.trials_left} trials are left, the same command resumes")
            progress.close()


def _exclusive(under_way: dict[Future[Any], tuple[Chunk, float, Path]], pool: Pool) -> bool:
    """Whether a chunk is under way that nothing may run beside, or its death would be another's."""
    return not pool.isolating and any(chunk.alone for chunk, *_ in under_way.values())


def _speed(schedule: Schedule, trials: int, seconds: float) -> dict[str, Any]:
    return {"seconds": seconds, "trials": trials, "left": schedule.trials_left, "stopped": schedule.stopped}


def _retry(writer: Writer, statuses: str) -> None:
    """Forget failed rows, so that they are run again, and record it in the manifest."""
    wanted = list(FAILURES) if statuses == "all" else [word.strip() for word in statuses.split(",")]
    for word in wanted:
        if word not in FAILURES:
            raise InputError(f"--retry-failed takes all, or of {', '.join(FAILURES)}, got {word!r:.60}.")
    counts = writer.forget_failures(wanted)
    if counts:
        manifest = writer.about["manifest"]
        manifest["retried"] = [*manifest.get("retried", []), counts]
        writer.set_meta(manifest=manifest)


def _shard(shard: str | tuple[int, int] | None) -> Shard:
    if shard is None:
        return Shard()
    expect("shard", shard, (str, tuple, list), 'write i/N, for example "2/8"')
    try:
        index, count = map(int, shard.split("/") if isinstance(shard, str) else shard)
    except (ValueError, TypeError):
        raise InputError(f"a shard is written i/N, for example 2/8, got {shard!r}.") from None
    if not 0 <= index <= count or not 1 <= count <= 10**6:
        raise InputError(f"a shard i/N needs 1 ≤ i ≤ N (or 0 ≤ i < N), got {index}/{count}.")
    return Shard(index, count)
