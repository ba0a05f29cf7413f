"""Tutorial four: a log line with a severity, by the direct exchange `direct_logs`.

    emit_log_direct.py [severity] [text...]
"""

import sys

import broker

connection = broker.connect()
channel = connection.channel()
channel.exchange_declare(exchange="direct_logs", exchange_type="direct")
severity = sys.argv[1] if len(sys.argv) > 1 else "info"
line = " ".join(sys.argv[2:]) or "Hello World!"
channel.basic_publish(exchange="direct_logs", routing_key=severity, body=line)
print(f" [x] Sent {severity}:{line}")
connection.close()
