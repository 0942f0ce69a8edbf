// Publishes with the HiveMQ MQTT client: `PublishHiveMq.java PORT VERSION QOS CLIENT_ID TOPIC FILE`, a payload in hex on
// each line, with every option of CONNECT that it offers.

import com.hivemq.client.mqtt.datatypes.MqttQos;
import com.hivemq.client.mqtt.mqtt3.Mqtt3AsyncClient;
import com.hivemq.client.mqtt.mqtt3.Mqtt3Client;
import com.hivemq.client.mqtt.mqtt5.Mqtt5AsyncClient;
import com.hivemq.client.mqtt.mqtt5.Mqtt5Client;
import com.hivemq.client.mqtt.mqtt5.datatypes.Mqtt5UserProperties;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HexFormat;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;

public class PublishHiveMq {
  static final int KEEP_ALIVE_SECONDS = 37;
  static final int TIMEOUT_SECONDS = 60;

  public static void main(String[] arguments) {
    try {
      publish(arguments);
      System.exit(0); // Its threads would keep the process for a while.
    } catch (Exception error) {
      error.printStackTrace();
      System.exit(1);
    }
  }

  static void publish(String[] arguments) throws Exception {
    int port = Integer.parseInt(arguments[0]);
    MqttQos qos = MqttQos.fromCode(Integer.parseInt(arguments[2]));
    List<byte[]> payloads;
    try (Stream<String> lines = Files.lines(Path.of(arguments[5]))) {
      payloads = lines.map(HexFormat.of()::parseHex).toList();
    }
    if (arguments[1].equals("5")) {
      publish5(port, qos, arguments[3], arguments[4], payloads);
    } else {
      publish3(port, qos, arguments[3], arguments[4], payloads);
    }
  }

  static void publish3(int port, MqttQos qos, String clientId, String topic, List<byte[]> payloads) throws Exception {
    Mqtt3AsyncClient client =
        Mqtt3Client.builder().identifier(clientId).serverHost("127.0.0.1").serverPort(port).buildAsync();
    client.connectWith()
        .cleanSession(true)
        .keepAlive(KEEP_ALIVE_SECONDS)
        .simpleAuth().username("peer").password("secret".getBytes()).applySimpleAuth()
        .willPublish().topic(topic + "/will").payload("gone".getBytes()).qos(MqttQos.AT_LEAST_ONCE).applyWillPublish()
        .send().get(TIMEOUT_SECONDS, TimeUnit.SECONDS);
    await(payloads.stream().map(payload -> client.publishWith().topic(topic).qos(qos).payload(payload).send()));
    client.disconnect().get(TIMEOUT_SECONDS, TimeUnit.SECONDS);
  }

  static void publish5(int port, MqttQos qos, String clientId, String topic, List<byte[]> payloads) throws Exception {
    Mqtt5UserProperties user = Mqtt5UserProperties.builder().add("colour", "blue").add("colour", "green").build();
    Mqtt5AsyncClient client =
        Mqtt5Client.builder().identifier(clientId).serverHost("127.0.0.1").serverPort(port).buildAsync();
    client.connectWith()
        .cleanStart(true)
        .keepAlive(KEEP_ALIVE_SECONDS)
        .sessionExpiryInterval(60)
        .simpleAuth().username("peer").password("secret".getBytes()).applySimpleAuth()
        .restrictions()
            .receiveMaximum(20).maximumPacketSize(100_000).topicAliasMaximum(5)
            .sendMaximum(100).sendMaximumPacketSize(100_000).sendTopicAliasMaximum(5)
            .requestProblemInformation(true).requestResponseInformation(true)
            .applyRestrictions()
        .willPublish()
            .topic(topic + "/will").payload("gone".getBytes()).qos(MqttQos.AT_LEAST_ONCE)
            .delayInterval(5).messageExpiryInterval(60).contentType("text/plain")
            .responseTopic("answers").correlationData(new byte[] {1, 2}).userProperties(user)
            .applyWillPublish()
        .userProperties(user)
        .send().get(TIMEOUT_SECONDS, TimeUnit.SECONDS);
    await(payloads.stream().map(payload -> client.publishWith()
        .topic(topic).qos(qos).payload(payload)
        .messageExpiryInterval(3_600).contentType("application/octet-stream")
        .responseTopic("answers").correlationData(new byte[] {1, 2}).userProperties(user)
        .send()));
    client.disconnect().get(TIMEOUT_SECONDS, TimeUnit.SECONDS);
  }

  static void await(Stream<? extends CompletableFuture<?>> sent) throws Exception {
    for (CompletableFuture<?> each : sent.toList()) {
      each.get(TIMEOUT_SECONDS, TimeUnit.SECONDS);
    }
  }
}
