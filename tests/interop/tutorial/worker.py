"""Tutorial two: works on `task_queue`, one task at a time, a second for each dot."""

import time

import broker


def on_task(channel, delivery, properties, body):
    print(f" [x] Received '{body.decode()}'")
    time.sleep(body.count(b"."))
    print(" [x] Done")
    channel.basic_ack(delivery_tag=delivery.delivery_tag)


channel = broker.connect().channel()
channel.queue_declare(queue="task_queue", durable=True)
channel.basic_qos(prefetch_count=1)
channel.basic_consume(queue="task_queue", on_message_callback=on_task)
broker.wait(channel, " [*] Waiting for messages. To exit press CTRL+C")
