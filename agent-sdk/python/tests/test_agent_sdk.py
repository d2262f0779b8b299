"""What of the SDK needs no host: conversions and failures. Run with the bindings in the path; see the README."""

import datetime
import decimal
import unittest
import uuid

import agent_sdk
from agent_sdk import Output, Reject, Retry, Task
from componentize_py_types import Err
from wit_world.imports import agent_runtime_types as types
from wit_world.imports import cache, sql


def task(body: bytes) -> types.Task:
    return types.Task("id", "a", 1, 1, 5, 0, 0, [("colour", "red")], "text/plain", body, None)


def handled(handle, body: bytes = b""):
    space = {}
    exec("def run(task): return inner(task)", space)
    space["inner"] = handle
    agent_sdk.agent(space["run"])
    return space["Handler"]().handle(task(body))


def failed(handle, body: bytes = b""):
    try:
        handled(handle, body)
    except Err as error:
        return error.value
    raise AssertionError("it succeeded")


class Answers(unittest.TestCase):
    def test_what_a_handler_gives(self):
        self.assertIsNone(handled(lambda task: None))
        self.assertEqual(handled(lambda task: b"x"), types.Output("application/octet-stream", b"x", []))
        self.assertEqual(handled(lambda task: "é"), types.Output("text/plain; charset=utf-8", "é".encode(), []))
        self.assertEqual(handled(lambda task: {"a": [1]}), types.Output("application/json", b'{"a": [1]}', []))
        given = Output(b"x", "image/png", [("a", "b")])
        self.assertEqual(handled(lambda task: given), types.Output("image/png", b"x", [("a", "b")]))

    def test_what_a_handler_is_given(self):
        self.assertEqual(handled(lambda task: task.json()["a"], b'{"a": "b"}').body, b"b")
        self.assertEqual(handled(lambda task: task.header("Colour")).body, b"red")

    def test_a_body_that_does_not_fit_is_rejected(self):
        self.assertIn("JSON", failed(lambda task: task.json(), b"{").value)
        self.assertIsInstance(failed(lambda task: task.text(), b"\xff"), types.Failure_Reject)


class Failures(unittest.TestCase):
    def test_retry_and_reject(self):
        def raising(error):
            def handle(task):
                raise error

            return handle

        self.assertEqual(failed(raising(Reject("no"))), types.Failure_Reject("no"))
        self.assertEqual(failed(raising(Retry("later"))), types.Failure_Retry("later"))
        after = Retry("later", datetime.timedelta(seconds=1.5))
        self.assertEqual(failed(raising(after)), types.Failure_RetryAfter((1500, "later")))
        with self.assertRaises(KeyError):
            handled(raising(KeyError("a mistake")))

    def test_the_hosts_errors_are_typed(self):
        def host_says(value):
            def call():
                raise Err(value)

            return lambda task: agent_sdk._called("cache", call)

        self.assertEqual(failed(host_says(cache.Error_Unavailable("away"))), types.Failure_Retry("cache: away"))
        self.assertEqual(failed(host_says(cache.Error_AccessDenied("no"))), types.Failure_Reject("cache: no"))
        query = sql.DbError("23505", "ERROR", "there already", None, None, None, "key")
        self.assertIsInstance(failed(host_says(sql.Error_QueryFailed(query))), types.Failure_Reject)
        conflict = sql.DbError("40001", "ERROR", "in the way", None, None, None, None)
        self.assertIsInstance(failed(host_says(sql.Error_QueryFailed(conflict))), types.Failure_Retry)


class Values(unittest.TestCase):
    def test_values_come_back_as_they_went(self):
        moment = datetime.datetime(2026, 11, 28, 3, 4, 5, 678_000)
        for value in [
            None, True, 7, 1.5, "é", b"\0", decimal.Decimal("12.340"), uuid.uuid4(), moment, moment.date(),
            moment.time(), {"a": [1, None]}, [1, None, 3], ["a", None],
        ]:
            lowered = agent_sdk._parameter(value)
            name = type(lowered).__name__.replace("ParameterValue_", "DbValue_")
            held = [lowered.value] if hasattr(lowered, "value") else []
            self.assertEqual(agent_sdk._value(getattr(sql, name)(*held)), value, name)

    def test_a_moment_with_a_zone_is_of_utc(self):
        zone = datetime.timezone(datetime.timedelta(hours=2))
        lowered = agent_sdk._parameter(datetime.datetime(2026, 1, 1, 1, tzinfo=zone))
        self.assertEqual(lowered.value, (2025, 12, 31, 23, 0, 0, 0))

    def test_what_has_no_type_is_told(self):
        with self.assertRaisesRegex(Reject, "type set"):
            agent_sdk._parameter({1})


if __name__ == "__main__":
    unittest.main()
