// Publishes with MQTT.js: `publish.js PORT VERSION QOS CLIENT_ID TOPIC FILE`, a payload in hex on each line, with every
// option of CONNECT that it offers.
const fs = require("node:fs");
const mqtt = require("mqtt");

// MQTT.js does not wait when the server's Receive Maximum is reached, so its user has to. The default is 128.
const AT_A_TIME = 100;
const USER = { userProperties: { colour: ["blue", "green"] } };
const CONNECT = {
  ...USER,
  sessionExpiryInterval: 60,
  receiveMaximum: 20,
  maximumPacketSize: 100000,
  topicAliasMaximum: 5,
  requestResponseInformation: true,
  requestProblemInformation: true,
};
const PUBLISH = {
  ...USER,
  payloadFormatIndicator: false,
  messageExpiryInterval: 3600,
  contentType: "application/octet-stream",
  responseTopic: "answers",
  correlationData: Buffer.from([1, 2]),
};

async function main([port, version, qos, clientId, topic, file]) {
  const payloads = fs.readFileSync(file, "ascii").trimEnd().split("\n").map((line) => Buffer.from(line, "hex"));
  const [connect, publish, will] = version === "5" ? [CONNECT, PUBLISH, { ...PUBLISH, willDelayInterval: 5 }] : [];
  const client = await mqtt.connectAsync(`mqtt://127.0.0.1:${port}`, {
    protocolVersion: Number(version),
    protocolId: version === "3" ? "MQIsdp" : "MQTT",
    clientId,
    clean: true,
    keepalive: 37,
    username: "peer",
    password: "secret",
    will: { topic: `${topic}/will`, payload: Buffer.from("gone"), qos: 1, retain: false, properties: will },
    properties: connect,
    autoAssignTopicAlias: version === "5",
  });
  for (let start = 0; start < payloads.length; start += AT_A_TIME) {
    const messages = payloads.slice(start, start + AT_A_TIME);
    const options = { qos: Number(qos), properties: publish };
    await Promise.all(messages.map((payload) => client.publishAsync(topic, payload, options)));
  }
  await client.endAsync();
}

main(process.argv.slice(2));
