"""Greets whoever is named."""

from agent_sdk import Reject, agent


@agent
def handle(task):
    match task.json():
        case {"name": str(name)}:
            return {"greeting": f"Hello, {name}!"}
    raise Reject("the body is not the JSON that this agent takes: it has no name")
