"""Tutorial three: a log line to everybody, by the fanout exchange `logs`.

    emit_log.py [text...]
"""

import sys

import broker

connection = broker.connect()
channel = connection.channel()
channel.exchange_declare(exchange="logs", exchange_type="fanout")
line = " ".join(sys.argv[1:]) or "info: Hello World!"
channel.basic_publish(exchange="logs", routing_key="", body=line)
print(f" [x] Sent '{line}'")
connection.close()
