"""Tutorial four: prints the log lines it is bound to.

    receive_logs_direct.py [info] [warning] [error]
"""

import sys

import broker


def on_line(channel, delivery, properties, body):
    print(f" [x] {delivery.routing_key}:{body.decode()}")


bindings = sys.argv[1:]
if not bindings:
    sys.exit(f"Usage: {sys.argv[0]} [info] [warning] [error]")
channel = broker.connect().channel()
channel.exchange_declare(exchange="direct_logs", exchange_type="direct")
queue = channel.queue_declare(queue="", exclusive=True).method.queue
for binding in bindings:
    channel.queue_bind(exchange="direct_logs", queue=queue, routing_key=binding)
channel.basic_consume(queue=queue, on_message_callback=on_line, auto_ack=True)
broker.wait(channel, " [*] Waiting for logs. To exit press CTRL+C")
