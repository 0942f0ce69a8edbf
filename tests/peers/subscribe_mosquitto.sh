#!/bin/sh
# Subscribes with mosquitto_sub: `subscribe_mosquitto.sh PORT VERSION QOS CLIENT_ID FILTER COUNT` writes what it is told,
# then each payload in hex on a line, and leaves after COUNT.
set -eu
port=$1 version=$2 qos=$3 client_id=$4 filter=$5 count=$6
case $version in 3) version=mqttv31 ;; 4) version=mqttv311 ;; 5) version=mqttv5 ;; esac
exec stdbuf -oL mosquitto_sub -d -h 127.0.0.1 -p "$port" -V "$version" -q "$qos" -i "$client_id" -t "$filter" -k 37 \
  -C "$count" -F %x
