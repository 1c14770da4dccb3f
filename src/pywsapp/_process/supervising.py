"""The supervisor of an App's workers, and what serves all of them: the bus, health checks, and the sum of numbers."""

from __future__ import annotations

from contextlib import closing

from pywsapp._process.background import tasks_of_block
from pywsapp._process.file_watch import FileWatch
from pywsapp._process.health_port import answering_health_of_workers
from pywsapp._process.listening import Listening
from pywsapp._process.metrics_port import answering_metrics
from pywsapp._process.service_manager import ServiceManager
from pywsapp._process.supervisor import Announce, supervise
from pywsapp._process.worker_limits import WorkerLimits
from pywsapp._process.worker_stats import StatsOfWorkers
from pywsapp.brokers.local.router import BusRouter
from pywsapp.options import Options


async def supervise_app(
    listening: Listening,
    workers: int,
    limits: WorkerLimits,
    announce: Announce,
    end_seconds: float,
    options: Options,
    manager: ServiceManager,
    watch: FileWatch | None,
    *,
    has_bus: bool,
) -> bool:
    """Run the workers of an App until a signal; return whether they were cancelled.

    Args:
        listening: what the App listens on.
        workers: the number of workers.
        limits: when a worker is replaced.
        announce: called when the workers listen.
        end_seconds: seconds that a worker needs to shut down.
        options: the limits of histories.
        manager: is told about the start, reloads and the end.
        watch: the workers are replaced after each change of its files.
        has_bus: whether a bus carries the messages of topics between the workers.
    """
    stats = StatsOfWorkers(workers)
    with closing(BusRouter(max_histories=options.max_histories, max_history_bytes=options.max_history_bytes)) as router:
        attach = router.attach if has_bus else None
        stats = StatsOfWorkers(workers, lambda: router.history.kept)
        async with (
            tasks_of_block() as tasks,
            answering_health_of_workers(listening.health),
            answering_metrics(listening.metrics, stats.total),
        ):
            tasks.start_soon(router.expire_histories)
            tasks.start_soon(stats.run)
            others = attach, stats, manager, watch
            return await supervise(listening.sockets, workers, announce, end_seconds, limits, *others)
