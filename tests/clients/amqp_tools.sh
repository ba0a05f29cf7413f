#!/bin/sh
# The command line tools of rabbitmq-c (Debian's amqp-tools) through what they can do of the
# scenario of tests/tests/conformance/interop/clients.rs. Each command is a connection of its own.
set -eu
name=$1
tool() { command=$1; shift; "amqp-$command" --url="$AMQP_URL" "$@"; }

tool declare-queue --queue="$name" >/dev/null
echo declared
for word in one two three; do tool publish --routing-key="$name" --body="$word"; done
echo published
echo consumed "$(tool consume --queue="$name" --count=3 cat)"
tool publish --routing-key="$name" --body=again
echo got "$(tool get --queue="$name")"
tool get --queue="$name" >/dev/null || echo empty
tool delete-queue --queue="$name" >/dev/null
echo deleted
