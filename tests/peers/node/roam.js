// Devices by MQTT.js that want to stay connected: `roam.js PORT DEVICES QOS SECONDS`, half of them 3.1.1, half 5.0. Each
// publishes a numbered message every SECONDS until SIGTERM; when all are acknowledged a JSON object of what they were
// told is written and the program ends.
//
// Reconnecting, keeping what is not acknowledged and sending it again is the library's. MQTT.js does that without looking
// at Session Present: after 0 it sends again what 5.0 tells it to discard.
const mqtt = require("mqtt");

// Messages of a device that are not acknowledged: MQTT.js does not wait when the server's Receive Maximum is reached.
const AT_A_TIME = 20;
const SESSION_EXPIRY_SECONDS = 3600;
const RECONNECT_MS = 200;
const CONNACK_MS = 15000;
// What PUBCOMP says of a PUBREL that came before: the connection broke between them. The message has arrived, but
// MQTT.js calls it an error.
const IDENTIFIER_NOT_FOUND = 0x92;
// What MQTT.js says of a message that it was given while it was sending others again, when the connection breaks before
// it is through with them (`_flushStoreProcessingQueue`): it has neither sent nor kept it, so it is the application's.
const REFUSED = "Connection closed";
const ALL_ACKNOWLEDGED_MS = 60000;

function startDevice(number, port) {
  const protocolVersion = number % 2 ? 5 : 4;
  const device = {
    client_id: `mqttjs-${protocolVersion}-${number}`,
    session_present: [],
    published: 0,
    unacknowledged: 0,
    refused: [],
  };
  const client = mqtt.connect(`mqtt://127.0.0.1:${port}`, {
    protocolVersion,
    clientId: device.client_id,
    clean: false,
    reconnectPeriod: RECONNECT_MS,
    connectTimeout: CONNACK_MS,
    properties: protocolVersion === 5 ? { sessionExpiryInterval: SESSION_EXPIRY_SECONDS } : undefined,
  });
  // "connect" comes only when all is sent again, which a connection that breaks before does not reach.
  client.on("packetreceive", (packet) => {
    if (packet.cmd === "connack" && !(packet.returnCode || packet.reasonCode)) {
      device.session_present.push(packet.sessionPresent);
    }
  });
  client.on("error", () => {}); // It tries again.
  return { device, client };
}

function publish({ device, client }, qos) {
  if (!device.session_present.length || device.unacknowledged >= AT_A_TIME) return;
  const number = (device.published += 1);
  device.unacknowledged += 1;
  client.publish(`tlink/${device.client_id}/up`, `${device.client_id} ${number}`, { qos }, (error) => {
    if (error && error.message === REFUSED) device.refused.push(number);
    else if (error && error.code !== IDENTIFIER_NOT_FOUND) return;
    device.unacknowledged -= 1;
  });
}

function main(port, devices, qos, seconds) {
  const fleet = Array.from({ length: devices }, (_, number) => startDevice(number, port));
  let turn = 0;
  const publishing = setInterval(() => publish(fleet[turn++ % devices], qos), (seconds * 1000) / devices);
  process.on("SIGTERM", () => {
    clearInterval(publishing);
    const deadline = Date.now() + ALL_ACKNOWLEDGED_MS;
    setInterval(() => {
      if (fleet.some(({ device }) => device.unacknowledged) && Date.now() < deadline) return;
      process.stdout.write(`${JSON.stringify(fleet.map(({ device }) => device))}\n`, () => process.exit(0));
    }, 50);
  });
}

main(...process.argv.slice(2).map(Number));
