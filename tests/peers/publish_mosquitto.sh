#!/bin/sh
# Publishes with mosquitto_pub: `publish_mosquitto.sh PORT VERSION QOS CLIENT_ID TOPIC FILE`, a payload on each line, with
# the options of CONNECT that it offers.
set -eu
port=$1 version=$2 qos=$3 client_id=$4 topic=$5 file=$6
set -- -h 127.0.0.1 -p "$port" -V "$version" -q "$qos" -i "$client_id" -t "$topic" -k 37 -u peer -P secret \
  --will-topic "$topic/will" --will-payload gone --will-qos 1
if [ "$version" = mqttv5 ]; then
  set -- "$@" -D CONNECT session-expiry-interval 60 -D CONNECT receive-maximum 20 -D CONNECT maximum-packet-size 100000 \
    -D CONNECT user-property colour blue -D WILL will-delay-interval 5 -D WILL content-type text/plain \
    -D PUBLISH message-expiry-interval 3600 -D PUBLISH content-type application/octet-stream \
    -D PUBLISH response-topic answers -D PUBLISH correlation-data 12 -D PUBLISH user-property colour blue \
    -D PUBLISH topic-alias 3
fi
exec mosquitto_pub "$@" -l <"$file"
