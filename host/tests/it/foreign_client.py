"""Enqueues tasks for every sample agent with pika and reads the replies, as a program that knows nothing of agent-host
but its queues would. Exits 0 when every reply came and was right."""

import base64
import json
import os
import sys
import uuid

import pika

# A PNG of one red pixel.
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
# How long to wait for the next reply before giving up, in seconds.
SILENCE_MAX_S = 60

run = uuid.uuid4().hex
JSON = "application/json"


def json_of(body):
    return json.loads(body)


# (agent, content type, body, headers, expected outcome, check of the reply's body)
TASKS = [
    ("echo", "text/plain", "grüezi".encode(), {}, "succeeded", lambda b: b == "grüezi".encode()),
    ("echo", "application/octet-stream", bytes(range(256)), {}, "succeeded", lambda b: b == bytes(range(256))),
    ("echo", "application/octet-stream", b"", {}, "succeeded", lambda b: b == b""),
    ("echo", "text/plain", b"pinned to a revision that is not active", {"x-revision": 1_000_000}, "rejected", None),
    ("echo", "text/plain", b"an attempt that is no number", {"x-attempt": "soon"}, "rejected", None),
    ("thumbnail", "image/png", PIXEL, {"width": 16, "height": 16}, "succeeded", lambda b: b.startswith(b"\x89PNG")),
    ("thumbnail", "image/png", b"no image", {}, "rejected", None),
    ("counter", JSON, json.dumps({"key": run, "by": 5}).encode(), {}, "succeeded", lambda b: json_of(b)["value"] == 5),
    ("counter", JSON, b"{", {}, "rejected", None),
    ("task-worker", JSON, json.dumps({"task_id": run, "payload": [1, 2]}).encode(), {}, "succeeded",
     lambda b: json_of(b)["status"] == "processed"),
    ("voter", JSON, json.dumps({"op": "create-proposal", "proposal": run}).encode(), {}, "succeeded",
     lambda b: json_of(b)["result"] == "created"),
    ("crud", JSON, json.dumps({"op": "insert", "name": run}).encode(), {}, "succeeded", lambda b: json_of(b)["rows"] == 1),
    ("cache-reader", JSON, json.dumps({"key": run}).encode(), {}, "succeeded", lambda b: json_of(b)["hit"] is False),
]

connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
channel = connection.channel()
channel.confirm_delivery()
replies = channel.queue_declare("", exclusive=True).method.queue

expected = {}
for number, (agent, content_type, body, headers, outcome, check) in enumerate(TASKS):
    correlation_id = f"{run}-{number}"
    expected[correlation_id] = (agent, outcome, check)
    properties = pika.BasicProperties(
        content_type=content_type,
        reply_to=replies,
        correlation_id=correlation_id,
        headers=headers,
        delivery_mode=2,
    )
    channel.basic_publish("agents", agent, body, properties, mandatory=True)

for method, properties, body in channel.consume(replies, auto_ack=True, inactivity_timeout=SILENCE_MAX_S):
    if method is None:
        sys.exit(f"no reply for {SILENCE_MAX_S} s; missing: {[entry[0] for entry in expected.values()]}")
    agent, outcome, check = expected.pop(properties.correlation_id)
    print(f"{agent}: {properties.type}, {len(body)} bytes of {properties.content_type}")
    if properties.type != outcome:
        sys.exit(f"{agent}: {properties.type} instead of {outcome}: {properties.headers}")
    if outcome == "succeeded" and not check(body):
        sys.exit(f"{agent}: wrong reply {body!r}")
    if outcome != "succeeded" and not (properties.headers or {}).get("x-error-message"):
        sys.exit(f"{agent}: a failure without x-error-message: {properties.headers}")
    if not expected:
        break

connection.close()
print("every reply came and was right")
