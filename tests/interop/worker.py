"""Works on the jobs of a Lepus work queue, which is there already.

    worker.py QUEUE

Prints ` [x] TASK ARGUMENTS attempt=N`, then acknowledges. A job that does not
decode is rejected: it goes where the queue's own dead-letter policy sends it.
"""

import json
import sys

import wire


def on_job(channel, delivery, job, body):
    attempt = (job.headers or {}).get("attempt", 1)
    try:
        arguments = wire.decode(job.content_type, body)
    except Exception as error:
        print(f" [!] {job.message_id} does not decode: {error}")
        channel.basic_reject(delivery.delivery_tag, requeue=False)
        return
    print(f" [x] {job.type} {json.dumps(arguments)} attempt={attempt}")
    channel.basic_ack(delivery.delivery_tag)


queue = sys.argv[1]
channel = wire.connect().channel()
channel.queue_declare(queue, passive=True)
channel.basic_qos(prefetch_count=1)
channel.basic_consume(queue, on_job)
print(f" [*] Working on {queue}")
try:
    channel.start_consuming()
except KeyboardInterrupt:
    pass
