"""Tutorial six: asks for a Fibonacci number.

    rpc_client.py [n]
"""

import sys
import uuid

import broker
import pika

n = int(sys.argv[1]) if len(sys.argv) > 1 else 30
connection = broker.connect()
channel = connection.channel()
replies = channel.queue_declare(queue="", exclusive=True).method.queue
call = str(uuid.uuid4())
print(f" [x] Requesting fib({n})")
channel.basic_publish(
    exchange="",
    routing_key="rpc_queue",
    properties=pika.BasicProperties(reply_to=replies, correlation_id=call),
    body=str(n),
)
for _, properties, body in channel.consume(replies, auto_ack=True, inactivity_timeout=30):
    if properties is None:
        sys.exit("no answer within 30 s")
    if properties.correlation_id == call:
        print(f" [.] Got {int(body)}")
        break
connection.close()
