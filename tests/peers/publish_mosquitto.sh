#!/bin/sh
# Publishes with mosquitto_pub: `publish_mosquitto.sh PORT VERSION QOS CLIENT_ID TOPIC FILE`, a payload on each line.
set -eu
mosquitto_pub -h 127.0.0.1 -p "$1" -V "$2" -q "$3" -i "$4" -t "$5" -l <"$6"
