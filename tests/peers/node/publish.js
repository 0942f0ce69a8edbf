// Publishes with MQTT.js: `publish.js PORT VERSION QOS CLIENT_ID TOPIC FILE`, a payload in hex on each line.
const fs = require("node:fs");
const mqtt = require("mqtt");

// MQTT.js does not wait when the server's Receive Maximum is reached, so its user has to. The default is 128.
const AT_A_TIME = 100;

async function main([port, version, qos, clientId, topic, file]) {
  const payloads = fs.readFileSync(file, "ascii").trimEnd().split("\n").map((line) => Buffer.from(line, "hex"));
  const client = await mqtt.connectAsync(`mqtt://127.0.0.1:${port}`, { protocolVersion: Number(version), clientId });
  for (let start = 0; start < payloads.length; start += AT_A_TIME) {
    const messages = payloads.slice(start, start + AT_A_TIME);
    await Promise.all(messages.map((payload) => client.publishAsync(topic, payload, { qos: Number(qos) })));
  }
  await client.endAsync();
}

main(process.argv.slice(2));
