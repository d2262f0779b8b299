"""Greets whoever is named."""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports.agent_runtime_types import Failure_Reject, Output, Task


class Handler(exports.Handler):
    def handle(self, task: Task) -> Output | None:
        try:
            name = json.loads(task.body)["name"]
        except (ValueError, KeyError, TypeError) as error:
            raise Err(Failure_Reject(f"the body is not the JSON that this agent takes: {error}"))
        reply = {"greeting": f"Hello, {name}!"}
        return Output("application/json", json.dumps(reply).encode(), [])
