"""Pushes one job to a Lepus work queue; returns when the broker has it in safety.

    producer.py QUEUE TASK ARGUMENTS [json|msgpack]
"""

import json
import sys
import uuid

import pika
import wire

queue, task, arguments = sys.argv[1:4]
content_type = f"application/{sys.argv[4] if len(sys.argv) > 4 else 'json'}"
connection = wire.connect()
channel = connection.channel()
channel.confirm_delivery()
job = pika.BasicProperties(
    type=task,
    message_id=str(uuid.uuid4()),  # the idempotency key, kept across retries
    content_type=content_type,
    delivery_mode=pika.DeliveryMode.Persistent,
)
try:
    channel.basic_publish("", queue, wire.encode(content_type, json.loads(arguments)), job, mandatory=True)
    print(f" [x] Pushed {task} {job.message_id}")
except pika.exceptions.UnroutableError:
    sys.exit(f"there is no queue {queue}")
finally:
    connection.close()
