"""Write agents for agent-host in Python: a function from a task to a result.

    from agent_sdk import agent

    @agent
    def handle(task):
        return {"greeting": f"Hello, {task.json()['name']}!"}
"""

from __future__ import annotations

import datetime
import decimal
import json as _json
import uuid
from dataclasses import dataclass, field
from typing import Any, Callable, Iterator, Sequence
from urllib.parse import urlsplit as _urlsplit

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.imports import agent_runtime_types as _types
from wit_world.imports import atomics as _atomics
from wit_world.imports import batch as _batch
from wit_world.imports import cache as _cache
from wit_world.imports import logging as _logging
from wit_world.imports import outgoing_handler as _outgoing
from wit_world.imports import secrets as _secrets
from wit_world.imports import sql as _sql
from wit_world.imports import streams as _streams
from wit_world.imports import tasks as _tasks
from wit_world.imports import wasi_config_store as _config
from wit_world.imports import wasi_http_types as _http
from wit_world.imports import wasi_keyvalue_store as _store

__all__ = [
    "Cache", "Bucket", "Database", "HostError", "Output", "Reject", "Response", "Retry", "SqlError", "Task",
    "agent", "cache", "config", "http", "log", "secret", "submit", "is_cancelled", "progress",
]


# Tasks, outputs, failures


@dataclass(frozen=True)
class Task:
    """One unit of work, as one attempt sees it."""

    id: str
    agent: str
    revision: int
    attempt: int
    max_attempts: int
    enqueued_at: int
    deadline: int
    headers: list[tuple[str, str]]
    content_type: str
    body: bytes
    traceparent: str | None = None

    def text(self) -> str:
        """The body as text. One that is none is rejected."""
        try:
            return self.body.decode()
        except UnicodeDecodeError as error:
            raise Reject(f"the body is no UTF-8 text: {error}") from error

    def json(self) -> Any:
        """The body as JSON. One that is none is rejected."""
        try:
            return _json.loads(self.body)
        except ValueError as error:
            raise Reject(f"the body is not the JSON that this agent takes: {error}") from error

    def header(self, name: str) -> str | None:
        """The first header of this name."""
        return next((value for other, value in self.headers if other == name.lower()), None)


@dataclass(frozen=True)
class Output:
    """What a task that succeeded gives back."""

    body: bytes
    content_type: str | None = None
    headers: list[tuple[str, str]] = field(default_factory=list)


class Retry(Exception):
    """It may work later: another attempt after the manifest's backoff, or not before `after` has passed."""

    def __init__(self, message: str, after: datetime.timedelta | None = None):
        super().__init__(message)
        self.after = after


class Reject(Exception):
    """It will never work: a dead letter at once."""


class HostError(Exception):
    """A call to the host failed. One that may pass has the task tried again, any other has it rejected."""

    def __init__(self, what: str, case: str, message: str, transient: bool):
        super().__init__(f"{what}: {message}")
        self.case = case
        self.transient = transient


class SqlError(HostError):
    """PostgreSQL refused a statement."""

    def __init__(self, error: Any):
        transient = error.sqlstate[:2] in ("08", "40", "53", "57") or error.sqlstate == "55P03"
        super().__init__("sql", "query-failed", f"{error.message} (SQLSTATE {error.sqlstate})", transient)
        self.sqlstate: str = error.sqlstate
        self.detail: str | None = error.detail
        self.constraint: str | None = error.constraint

    @property
    def is_unique_violation(self) -> bool:
        """Whether a row of this key is there already."""
        return self.sqlstate == "23505"


# Cases of the host's errors that may be gone on the next attempt.
_TRANSIENT = {
    "ConnectionFailed", "Unavailable", "Other", "Io", "Upstream",
    # Of a request over HTTP.
    "DnsTimeout", "DnsError", "DestinationNotFound", "DestinationUnavailable", "DestinationIpUnroutable",
    "ConnectionRefused", "ConnectionTerminated", "ConnectionTimeout", "ConnectionReadTimeout", "ConnectionWriteTimeout",
    "ConnectionLimitReached", "HttpResponseIncomplete", "HttpResponseTimeout", "LastOperationFailed",
}


def _called(what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls the host, and raises its typed error as ours."""
    try:
        return function(*arguments)
    except Err as error:
        raise _host_error(what, error.value) from None


def _host_error(what: str, value: Any) -> HostError:
    """The host's typed error as ours."""
    case = type(value).__name__.rpartition("_")[2]
    inner = getattr(value, "value", None)
    if case == "QueryFailed":
        return SqlError(inner)
    message = inner if isinstance(inner, str) else case
    return HostError(what, case, message, case in _TRANSIENT)


def _lowered(answer: Any) -> _types.Output | None:
    """What a handler gave, as the host takes it."""
    if answer is None:
        return None
    if isinstance(answer, Output):
        return _types.Output(answer.content_type, answer.body, answer.headers)
    if isinstance(answer, (bytes, bytearray)):
        return _types.Output("application/octet-stream", bytes(answer), [])
    if isinstance(answer, str):
        return _types.Output("text/plain; charset=utf-8", answer.encode(), [])
    return _types.Output("application/json", _json.dumps(answer).encode(), [])


def _failure(error: Exception) -> Any:
    """A failure of the task, where the error is one. Anything else is a mistake in the agent, and traps."""
    if isinstance(error, Reject):
        return _types.Failure_Reject(str(error))
    if isinstance(error, Retry) and error.after is not None:
        return _types.Failure_RetryAfter((max(0, int(error.after.total_seconds() * 1000)), str(error)))
    if isinstance(error, Retry) or (isinstance(error, HostError) and error.transient):
        return _types.Failure_Retry(str(error))
    if isinstance(error, HostError):
        return _types.Failure_Reject(str(error))
    return None


def agent(handle: Callable[[Task], Any]) -> Callable[[Task], Any]:
    """Makes a function the agent. It gives an `Output`, bytes, text, anything that JSON can hold, or nothing."""

    class Handler(exports.Handler):
        def handle(self, task: _types.Task) -> _types.Output | None:
            try:
                return _lowered(handle(Task(**vars(task))))
            except Exception as error:
                failure = _failure(error)
                if failure is None:
                    raise
                raise Err(failure) from None

    # Where componentize-py looks for what the world exports.
    handle.__globals__["Handler"] = Handler
    return handle


# Configuration, secrets, log


def config(key: str, default: str | None = None) -> str | None:
    """A value of the manifest's `[config]`."""
    value = _called("config", _config.get, key)
    return default if value is None else value


def secret(name: str) -> str:
    """A secret that the manifest lists under `[secrets]`."""
    return _called("secrets", _secrets.get, name).reveal()


class log:
    """Log lines. What is printed is logged too."""

    @staticmethod
    def debug(message: str, context: str = "") -> None:
        _logging.log(_logging.Level.DEBUG, context, message)

    @staticmethod
    def info(message: str, context: str = "") -> None:
        _logging.log(_logging.Level.INFO, context, message)

    @staticmethod
    def warn(message: str, context: str = "") -> None:
        _logging.log(_logging.Level.WARN, context, message)

    @staticmethod
    def error(message: str, context: str = "") -> None:
        _logging.log(_logging.Level.ERROR, context, message)


# Follow-up tasks, and the running one


def submit(
    agent: str,
    body: bytes | str | Any,
    *,
    delay: datetime.timedelta | None = None,
    idempotency_key: str | None = None,
    content_type: str | None = None,
    headers: Sequence[tuple[str, str]] = (),
    max_attempts: int | None = None,
) -> str:
    """Submits a task to an agent that the manifest names under `grants.tasks`; gives its id. It leaves with this one."""
    lowered = _lowered(body) or _types.Output(None, b"", [])
    delay_ms = None if delay is None else int(delay.total_seconds() * 1000)
    options = _tasks.SubmitOptions(
        delay_ms, idempotency_key, content_type or lowered.content_type, list(headers), max_attempts
    )
    return _called("tasks", _tasks.submit, agent, lowered.body, options)


def is_cancelled() -> bool:
    """Whether somebody cancelled the running task."""
    return _tasks.is_cancelled()


def progress(fraction: float, note: str | None = None) -> None:
    """Says how far the running task is."""
    _tasks.progress(fraction, note)


# Key-value and cache


class Bucket:
    """A key-value bucket that the manifest grants."""

    def __init__(self, name: str = "default"):
        # The host's error does not name the bucket.
        self._bucket = _called(f"key-value: the bucket {name!r}", _store.open, name)

    def get(self, key: str) -> bytes | None:
        """The value of a key."""
        return _called("key-value", self._bucket.get, key)

    def set(self, key: str, value: bytes | str) -> None:
        """Sets a key."""
        _called("key-value", self._bucket.set, key, _bytes(value))

    def delete(self, key: str) -> None:
        """Deletes a key, whether it is there or not."""
        _called("key-value", self._bucket.delete, key)

    def exists(self, key: str) -> bool:
        """Whether a key is there."""
        return _called("key-value", self._bucket.exists, key)

    def increment(self, key: str, delta: int = 1) -> int:
        """Adds to a whole number and gives the sum; a key that is not there counts as 0."""
        return _called("key-value", _atomics.increment, self._bucket, key, delta)

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes | None]:
        """The values of several keys."""
        return dict(_called("key-value", _batch.get_many, self._bucket, list(keys)))

    def set_many(self, values: dict[str, bytes | str]) -> None:
        """Sets several keys."""
        pairs = [(key, _bytes(value)) for key, value in values.items()]
        _called("key-value", _batch.set_many, self._bucket, pairs)

    def keys(self) -> Iterator[str]:
        """All keys, in no order; one may come twice."""
        cursor = None
        while True:
            page = _called("key-value", self._bucket.list_keys, cursor)
            yield from page.keys
            cursor = page.cursor
            if cursor is None:
                return


class Cache:
    """The cache, where the manifest grants it: values that may be forgotten."""

    def get(self, key: str) -> bytes | None:
        """The value of a key."""
        return _called("cache", _cache.get, key)

    def set(self, key: str, value: bytes | str, ttl: datetime.timedelta | None = None) -> None:
        """Sets a key, for a while or for as long as memory allows."""
        ttl_ms = None if ttl is None else int(ttl.total_seconds() * 1000)
        _called("cache", _cache.set, key, _bytes(value), ttl_ms)

    def delete(self, key: str) -> bool:
        """Deletes a key and says whether it was there."""
        return _called("cache", _cache.delete, key)

    def increment(self, key: str, delta: int = 1) -> int:
        """Adds to a whole number and gives the sum."""
        return _called("cache", _cache.increment, key, delta)

    def expire(self, key: str, ttl: datetime.timedelta) -> bool:
        """Gives a key a new time to live and says whether the key was there."""
        return _called("cache", _cache.expire, key, int(ttl.total_seconds() * 1000))


cache = Cache()


def _bytes(value: bytes | str) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)


# SQL


class Database:
    """A database that the manifest grants. Under `transaction = "task"` all that a task does in it commits together."""

    def __init__(self, name: str = "main"):
        self._connection = _called("sql", _sql.Connection.open, name)

    def execute(self, statement: str, *parameters: Any) -> int:
        """Runs a statement and gives the number of rows that it affected."""
        return _called("sql", self._connection.execute, statement, [_parameter(value) for value in parameters])

    def query(self, statement: str, *parameters: Any) -> Iterator[dict[str, Any]]:
        """Runs a statement for its rows, which come as they are asked for."""
        cursor = _called("sql", self._connection.query, statement, [_parameter(value) for value in parameters])
        names = [column.name for column in cursor.columns()]
        return self._rows(cursor, names)

    @staticmethod
    def _rows(cursor: Any, names: list[str]) -> Iterator[dict[str, Any]]:
        rows_per_call = 256
        with cursor:
            while rows := _called("sql", cursor.next, rows_per_call):
                for row in rows:
                    yield dict(zip(names, map(_value, row)))

    def query_one(self, statement: str, *parameters: Any) -> dict[str, Any] | None:
        """The first row of a query, where it has one."""
        return next(iter(self.query(statement, *parameters)), None)


def _parameter(value: Any) -> Any:
    """A value as the host takes it. Whole numbers, texts and decimals become the parameter's own type where they fit."""
    match value:
        case None:
            return _sql.ParameterValue_DbNull()
        case bool():
            return _sql.ParameterValue_Boolean(value)
        case int():
            return _sql.ParameterValue_Int64(value)
        case float():
            return _sql.ParameterValue_Floating64(value)
        case str():
            return _sql.ParameterValue_Str(value)
        case bytes() | bytearray():
            return _sql.ParameterValue_Binary(bytes(value))
        case decimal.Decimal():
            return _sql.ParameterValue_Decimal(f"{value:f}")
        case uuid.UUID():
            return _sql.ParameterValue_Uuid(str(value))
        case datetime.datetime():
            if value.tzinfo is not None:
                value = value.astimezone(datetime.timezone.utc)
            parts = (value.year, value.month, value.day, value.hour, value.minute, value.second)
            return _sql.ParameterValue_Datetime((*parts, value.microsecond * 1000))
        case datetime.date():
            return _sql.ParameterValue_Date((value.year, value.month, value.day))
        case datetime.time():
            return _sql.ParameterValue_Time((value.hour, value.minute, value.second, value.microsecond * 1000))
        case dict():
            return _sql.ParameterValue_Jsonb(_json.dumps(value).encode())
        case list() if all(isinstance(item, int | None) for item in value):
            return _sql.ParameterValue_ArrayInt64(value)
        case list() if all(isinstance(item, str | None) for item in value):
            return _sql.ParameterValue_ArrayStr(value)
    raise Reject(f"a parameter of type {type(value).__name__} has no type in SQL")


def _value(value: Any) -> Any:
    """A value of a row as Python has it."""
    case = type(value).__name__.rpartition("_")[2]
    if case == "DbNull":
        return None
    held = value.value
    match case:
        case "Date":
            return datetime.date(*held)
        case "Time":
            hour, minute, second, nanosecond = held
            return datetime.time(hour, minute, second, nanosecond // 1000)
        case "Datetime":
            *moment, nanosecond = held
            return datetime.datetime(*moment, nanosecond // 1000)
        case "Uuid":
            return uuid.UUID(held)
        case "Jsonb":
            return _json.loads(held)
        case "Decimal":
            return decimal.Decimal(held)
        case "ArrayDecimal":
            return [None if item is None else decimal.Decimal(item) for item in held]
    return held


# Outbound HTTP


@dataclass(frozen=True)
class Response:
    """A response, read whole."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def ok(self) -> Response:
        """The response where its status is a success. Else it is an error, with which the task is tried again where the
        status may pass (408, 425, 429, 5xx)."""
        if 200 <= self.status < 300:
            return self
        transient = self.status in (408, 425, 429) or 500 <= self.status < 600
        raise HostError("http", "Status", f"the response has the status {self.status}", transient)

    def text(self) -> str:
        """The body as text; what is none is replaced."""
        return self.body.decode(errors="replace")

    def json(self) -> Any:
        """The body as JSON."""
        try:
            return _json.loads(self.body)
        except ValueError as error:
            raise HostError("http", "Json", f"the response is no JSON: {error}", False) from error

    def header(self, name: str) -> str | None:
        """The first header of this name."""
        return next((value for other, value in self.headers if other.lower() == name.lower()), None)


_METHODS = {
    "GET": _http.Method_Get, "HEAD": _http.Method_Head, "POST": _http.Method_Post, "PUT": _http.Method_Put,
    "DELETE": _http.Method_Delete, "OPTIONS": _http.Method_Options, "PATCH": _http.Method_Patch,
}
_WRITE_BYTES_MAX = 4096  # by the definition of wasi:io
_READ_BYTES = 64 * 1024


class http:
    """Requests to the origins that the manifest's `allowed_outbound_hosts` names. A redirect is a response."""

    @staticmethod
    def get(url: str, **options: Any) -> Response:
        """GET."""
        return http.request("GET", url, **options)

    @staticmethod
    def post(url: str, body: bytes | str = b"", **options: Any) -> Response:
        """POST."""
        return http.request("POST", url, body=body, **options)

    @staticmethod
    def request(
        method: str,
        url: str,
        *,
        body: bytes | str = b"",
        headers: Sequence[tuple[str, str]] = (),
        timeout: datetime.timedelta | None = None,
    ) -> Response:
        """Sends a request and reads the whole response, whatever its status; see `Response.ok`. The timeout is for the
        connection, and again for the first byte of the response."""
        parts = _urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise HostError("http", "HttpRequestUriInvalid", f"{url!r} is no URL of http or https", False)
        fields = _called("http", _http.Fields.from_list, [(name, _bytes(value)) for name, value in headers])
        request = _http.OutgoingRequest(fields)
        named = _METHODS.get(method.upper())
        _called("http", request.set_method, named() if named else _http.Method_Other(method))
        _called("http", request.set_scheme, _http.Scheme_Https() if parts.scheme == "https" else _http.Scheme_Http())
        _called("http", request.set_authority, parts.netloc)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        _called("http", request.set_path_with_query, path)
        options = None
        if timeout is not None:
            options = _http.RequestOptions()
            nanoseconds = int(timeout.total_seconds() * 1_000_000_000)
            options.set_connect_timeout(nanoseconds)
            options.set_first_byte_timeout(nanoseconds)
        outgoing = _called("http", request.body)
        try:
            future = _outgoing.handle(request, options)
        except Err as error:
            raise _refused(error.value, parts.netloc) from None
        _write(outgoing, _bytes(body))
        with future.subscribe() as answered:
            answered.block()
        match future.get():
            case Ok(Ok(response)):
                return _read(response)
            case Ok(Err(code)):
                raise _refused(code, parts.netloc)
        raise HostError("http", "InternalError", "the host gave no response", False)


def _refused(code: Any, host: str) -> HostError:
    error = _host_error("http", code)
    if error.case in ("HttpRequestDenied", "DestinationIpProhibited"):
        what = f"the request to {host} was denied: add it to `allowed_outbound_hosts` under `[grants]` in agent.toml"
        return HostError("http", error.case, what, False)
    return error


def _write(outgoing: Any, body: bytes) -> None:
    # Whoever refuses the request, or answers early, does not read the body: what they say counts.
    try:
        if body:
            with outgoing.write() as stream:
                for start in range(0, len(body), _WRITE_BYTES_MAX):
                    stream.blocking_write_and_flush(body[start : start + _WRITE_BYTES_MAX])
        _http.OutgoingBody.finish(outgoing, None)
    except Err:
        pass


def _read(response: Any) -> Response:
    with response.headers() as fields:
        headers = [(name, value.decode(errors="replace")) for name, value in fields.entries()]
    parts = []
    with _called("http", response.consume) as incoming, _called("http", incoming.stream) as stream:
        while True:
            try:
                parts.append(stream.blocking_read(_READ_BYTES))
            except Err as error:
                if isinstance(error.value, _streams.StreamError_Closed):
                    break
                raise HostError("http", "LastOperationFailed", "the response broke off", True) from None
    return Response(response.status(), headers, b"".join(parts))
