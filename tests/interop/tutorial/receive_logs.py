"""Tutorial three: prints every log line that is sent while it runs."""

import broker


def on_line(channel, delivery, properties, body):
    print(f" [x] {body.decode()}")


channel = broker.connect().channel()
channel.exchange_declare(exchange="logs", exchange_type="fanout")
queue = channel.queue_declare(queue="", exclusive=True).method.queue
channel.queue_bind(exchange="logs", queue=queue)
channel.basic_consume(queue=queue, on_message_callback=on_line, auto_ack=True)
broker.wait(channel, " [*] Waiting for logs. To exit press CTRL+C")
