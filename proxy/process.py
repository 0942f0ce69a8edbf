"""A replica as a process: its event loop, its signals, what it says to people; and the replica of `mqk dev`."""

import asyncio
import contextlib
import gc
import logging
import resource
import signal
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from proxy import limits, logs, wiring
from proxy.clock import monotonic
from proxy.config import KafkaClient, Settings
from proxy.flows.reload import Reloader
from proxy.kafka.embedded import EmbeddedKafka
from proxy.kafka.readers import tail
from proxy.node import Node

log = logging.getLogger(__name__)

#: Takes the signals of a replica over: it is given the replica, and what tells it to stop (a second time: at once).
#: What it returns runs as long as the replica.
Attend = Callable[[Node, Callable[[], None]], Coroutine[Any, Any, None]]


def serve(settings: Settings, read: Callable[[], Settings], attend: Attend | None = None) -> int:
    """Runs one replica until SIGTERM or SIGINT; the exit code. `read` reads the settings again, for SIGHUP. One of
    several replicas is attended, and says in each line of the log which one it is.
    """
    main = _serve(settings, read, _no_companion, attend)
    return _run(main, settings, settings.node.id if attend else None)


def dev(settings: Settings, read: Callable[[], Settings]) -> int:
    """Runs the proxy on a Kafka that lives in memory and prints what arrives there; the exit code."""
    return _run(_dev(settings, read), settings)


def _run(main: Coroutine[Any, Any, int], settings: Settings, node: str | None = None) -> int:
    logs.set_up(settings.log.level, settings.log.format, monotonic, node)
    for talkative in ("aiokafka", "httpx", "httpcore", "uvicorn"):
        logging.getLogger(talkative).setLevel(max(logging.WARNING, logging.getLogger().level))
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415 - an extra: asyncio's own loop does the same, slower

        new_loop = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main)


async def _no_companion(_node: Node) -> None:
    await asyncio.Event().wait()


async def _serve(
    settings: Settings,
    read: Callable[[], Settings],
    companion: Callable[[Node], Coroutine[Any, Any, None]],
    attend: Attend | None = None,
) -> int:
    """Start, wait for a signal, stop. A second signal cuts the drain short."""
    _raise_file_limit()
    gc.freeze()
    gc.set_threshold(*limits.GC_THRESHOLDS)
    for warning in settings.warnings():
        log.warning(warning)
    node = Node(settings)
    signals: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, number)
    hangup = asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, hangup.set)
    stop = partial(signals.put_nowait, signal.SIGTERM)
    attending = [asyncio.create_task(attend(node, stop))] if attend is not None else []
    admin = asyncio.create_task(node.admin.run_until_stopped())
    log.info("admin port open", extra={"port": node.admin.port})
    interrupted = asyncio.create_task(signals.get())
    running = asyncio.create_task(_start_and_accompany(node, companion))
    reloading = asyncio.create_task(_reload_when_told(node, node.reloader(read), hangup))
    try:
        await asyncio.wait((interrupted, running), return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            await running
        running.cancel()
        reloading.cancel()
        stopping = asyncio.create_task(node.stop(settings.node.drain_seconds))
        again = asyncio.create_task(signals.get())
        await asyncio.wait((stopping, again), return_when=asyncio.FIRST_COMPLETED)
        again.cancel()
        if stopping.done():
            await stopping
        else:
            log.warning("told twice: stopping at once")
            stopping.cancel()
    finally:
        node.admin.should_exit = True
        await admin
        for task in attending:
            task.cancel()
    return 128 + signal.SIGINT if interrupted.done() and interrupted.result() == signal.SIGINT else 0


async def _start_and_accompany(node: Node, companion: Callable[[Node], Coroutine[Any, Any, None]]) -> None:
    await node.start()
    assert node.running is not None  # noqa: S101 - made by start
    accompanying = asyncio.create_task(companion(node))
    try:
        await asyncio.wait((node.running, accompanying), return_when=asyncio.FIRST_COMPLETED)
        await (node.running if node.running.done() else accompanying)
    finally:
        accompanying.cancel()


async def _reload_when_told(node: Node, reloader: Reloader, hangup: asyncio.Event) -> None:
    """SIGHUP. Who says it while it is being obeyed is obeyed once more."""
    await node.started.wait()
    while True:
        await hangup.wait()
        hangup.clear()
        try:
            await reloader.reload()
        except Exception:
            log.exception("reload failed")


async def _dev(settings: Settings, read: Callable[[], Settings]) -> int:
    kafka = EmbeddedKafka()
    internal = [topic.name for topic in wiring.internal_topics(settings)]
    dead_letters = [topic] if (topic := settings.dead_letter_topic()) else []
    public = [*wiring.route_table(settings).topics(), settings.status_topic(), *settings.command_topics()]
    await kafka.start([*public, *dead_letters, *internal])
    there = {"bootstrap_servers": [kafka.bootstrap_server], "replication_factor": 1, "client": KafkaClient()}

    def embedded(given: Settings) -> Settings:
        return given.model_copy(update={"kafka": given.kafka.model_copy(update=there)})

    try:
        return await _serve(embedded(settings), lambda: embedded(read()), _print_records)
    finally:
        await kafka.stop()


async def _print_records(node: Node) -> None:
    """What a newcomer sees: where to publish, then every record as Kafka has it."""
    settings = node.settings
    host, _, port = settings.listeners[0].bind.rpartition(":")
    mqk = sys.argv[0] if sys.argv[0].endswith("mqk") else "mqk"
    _say(
        f"""
This Kafka lives in memory ({settings.kafka.bootstrap_servers[0]}): what is in it is gone when you stop.
MQTT is on {host}:{port}, a page for people on http://{settings.admin.bind}/. Try, in another terminal:

  mosquitto_pub -h {host} -p {port} -t tlink/pk/dev1/up -m hi -q 1

Every record is shown here as it arrives in Kafka. And the way back: a device listens, and is told something.

  mosquitto_sub -h {host} -p {port} -i dev1 -t tlink/pk/dev1/down -q 1
  {mqk} publish --url http://{settings.admin.bind} --clientid dev1 tlink/pk/dev1/down hello

Ctrl-C stops.
"""
    )
    async for record in tail(node.client_options, [*node.topics, *settings.command_topics()]):
        key = (record.key or b"").decode(errors="replace")
        value = (record.value or b"").decode(errors="replace")
        _say(f"{record.topic}[{record.partition}]@{record.offset}  key={key}  value={value}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _raise_file_limit() -> None:
    """A connection is a file; the soft limit is often 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
