"""Tutorial two: puts a task into the durable queue `task_queue`.

    new_task.py [text...]      each dot is a second of work
"""

import sys

import broker
import pika

connection = broker.connect()
channel = connection.channel()
channel.queue_declare(queue="task_queue", durable=True)
task = " ".join(sys.argv[1:]) or "Hello World!"
persistent = pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent)
channel.basic_publish(exchange="", routing_key="task_queue", body=task, properties=persistent)
print(f" [x] Sent '{task}'")
connection.close()
