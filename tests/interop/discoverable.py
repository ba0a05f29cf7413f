"""A service that is found: it answers questions about itself.

    discoverable.py EXCHANGE NAME

EXCHANGE is `lepus.control`, after its namespace and a dot.
"""

import json
import sys
import time
import uuid

import pika
import wire

exchange, name = sys.argv[1:3]
namespace = exchange.removesuffix("lepus.control")
identity = {
    "name": name,
    "id": uuid.uuid4().hex[:22],
    "version": "1.0.0",
    "metadata": {"language": "python"},
    "kind": "service",
}
started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
add = {"name": "add", "subject": name, "queue_group": name}

ANSWERS = {
    wire.PING: {},
    wire.INFO: {"description": "Sums.", "started": started, "endpoints": [add]},
    wire.STATS: {"started": started, "endpoints": [{**add, "num_requests": 7}]},
    wire.HEALTH: {"status": "SERVING"},
}


def on_question(channel, delivery, question, body):
    answer = ANSWERS.get(question.type)
    if answer is None or not question.reply_to:
        return
    properties = pika.BasicProperties(
        type=question.type,
        correlation_id=question.correlation_id,
        content_type=wire.JSON,
    )
    body = json.dumps({**identity, **answer}).encode()
    channel.basic_publish("", question.reply_to, body, properties, mandatory=True)


channel = wire.connect().channel()
channel.exchange_declare(exchange, "direct", durable=True)
queue = f"{namespace}lepus.control.{identity['id']}"
arguments = {"x-max-length": 1000, "x-overflow": "drop-head"}
channel.queue_declare(queue, exclusive=True, arguments=arguments)
for key in ["all", f"service.{name}", f"queue.{name}"]:
    channel.queue_bind(queue, exchange, key)
channel.basic_consume(queue, on_question, auto_ack=True)
print(f" [*] Answering for {name}")
try:
    channel.start_consuming()
except KeyboardInterrupt:
    pass
