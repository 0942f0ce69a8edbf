// Subscribes with MQTT.js: `subscribe.js PORT VERSION QOS CLIENT_ID FILTER COUNT` writes `ready` once it has its SUBACK,
// then each payload in hex on a line, and leaves after COUNT.
const assert = require("node:assert");
const mqtt = require("mqtt");

async function main([port, version, qos, clientId, filter, count]) {
  let left = Number(count);
  const client = await mqtt.connectAsync(`mqtt://127.0.0.1:${port}`, {
    protocolVersion: Number(version),
    protocolId: version === "3" ? "MQIsdp" : "MQTT",
    clientId,
    clean: true,
    keepalive: 37,
  });
  client.on("message", (_topic, payload, packet) => {
    assert.strictEqual(packet.qos, Number(qos));
    if (version === "5") {
      assert.ok(packet.properties.userProperties["mqk-command-id"]);
      assert.strictEqual(packet.properties.subscriptionIdentifier, 7);
    }
    process.stdout.write(`${payload.toString("hex")}\n`);
    left -= 1;
    // The acknowledgement of this message leaves after its handler.
    if (left === 0) setImmediate(() => client.end());
  });
  const five = { nl: true, rap: true, rh: 1, properties: { subscriptionIdentifier: 7 } };
  const granted = await client.subscribeAsync(filter, { qos: Number(qos), ...(version === "5" ? five : {}) });
  assert.deepStrictEqual(granted.map((each) => each.qos), [Number(qos)]);
  process.stdout.write("ready\n");
}

main(process.argv.slice(2));
