"""Tutorial five: a log line with a key, by the topic exchange `topic_logs`.

    emit_log_topic.py [key] [text...]
"""

import sys

import broker

connection = broker.connect()
channel = connection.channel()
channel.exchange_declare(exchange="topic_logs", exchange_type="topic")
key = sys.argv[1] if len(sys.argv) > 1 else "anonymous.info"
line = " ".join(sys.argv[2:]) or "Hello World!"
channel.basic_publish(exchange="topic_logs", routing_key=key, body=line)
print(f" [x] Sent {key}:{line}")
connection.close()
