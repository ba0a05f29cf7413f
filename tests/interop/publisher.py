"""Publishes one event.

    publisher.py EXCHANGE fanout|direct|topic|headers KEY TYPE EVENT [json|msgpack] [HEADERS]

EVENT and HEADERS are JSON.
"""

import json
import sys

import pika
import wire

exchange, kind, key, event_type, event = sys.argv[1:6]
content_type = f"application/{sys.argv[6] if len(sys.argv) > 6 else 'json'}"
headers = json.loads(sys.argv[7]) if len(sys.argv) > 7 else None
connection = wire.connect()
channel = connection.channel()
channel.exchange_declare(exchange, kind, durable=True)
channel.confirm_delivery()
properties = pika.BasicProperties(type=event_type, content_type=content_type, headers=headers)
channel.basic_publish(exchange, key, wire.encode(content_type, json.loads(event)), properties)
print(f" [x] Published {key}")
connection.close()
