// Publishes with Eclipse Paho for Java: `PublishPaho.java PORT VERSION QOS CLIENT_ID TOPIC FILE`, a payload in hex on
// each line, with every option of CONNECT that it offers. It is one client for 3.1 and 3.1.1, and another for 5.0.

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HexFormat;
import java.util.List;
import java.util.stream.Stream;
import org.eclipse.paho.client.mqttv3.MqttAsyncClient;
import org.eclipse.paho.client.mqttv3.MqttConnectOptions;
import org.eclipse.paho.mqttv5.client.MqttConnectionOptions;
import org.eclipse.paho.mqttv5.common.MqttMessage;
import org.eclipse.paho.mqttv5.common.packet.MqttProperties;
import org.eclipse.paho.mqttv5.common.packet.UserProperty;

public class PublishPaho {
  static final int KEEP_ALIVE_SECONDS = 37;
  static final int TIMEOUT_MS = 60_000;
  /** It does not wait when the server's Receive Maximum (128) is reached, so its user has to. */
  static final int AT_A_TIME = 60;
  static final int TOO_MANY_IN_PROGRESS = 32_202;

  public static void main(String[] arguments) {
    try {
      publish(arguments);
      System.exit(0); // Its threads would keep the process.
    } catch (Exception error) {
      error.printStackTrace();
      System.exit(1);
    }
  }

  static void publish(String[] arguments) throws Exception {
    String server = "tcp://127.0.0.1:" + arguments[0];
    int version = Integer.parseInt(arguments[1]);
    int qos = Integer.parseInt(arguments[2]);
    List<byte[]> payloads;
    try (Stream<String> lines = Files.lines(Path.of(arguments[5]))) {
      payloads = lines.map(HexFormat.of()::parseHex).toList();
    }
    if (version == 5) {
      publish5(server, qos, arguments[3], arguments[4], payloads);
    } else {
      publish3(server, version, qos, arguments[3], arguments[4], payloads);
    }
  }

  static void publish3(String server, int version, int qos, String clientId, String topic, List<byte[]> payloads)
      throws Exception {
    MqttAsyncClient client = new MqttAsyncClient(server, clientId, null);
    MqttConnectOptions options = new MqttConnectOptions();
    options.setMqttVersion(version);
    options.setCleanSession(true);
    options.setKeepAliveInterval(KEEP_ALIVE_SECONDS);
    options.setMaxInflight(payloads.size() + 1);
    options.setUserName("peer");
    options.setPassword("secret".toCharArray());
    options.setWill(topic + "/will", "gone".getBytes(), 1, false);
    client.connect(options).waitForCompletion(TIMEOUT_MS);
    for (int start = 0; start < payloads.size(); start += AT_A_TIME) {
      var sent = new java.util.ArrayList<org.eclipse.paho.client.mqttv3.IMqttToken>();
      for (byte[] payload : payloads.subList(start, Math.min(start + AT_A_TIME, payloads.size()))) {
        sent.add(client.publish(topic, payload, qos, false));
      }
      for (var token : sent) {
        token.waitForCompletion(TIMEOUT_MS);
      }
    }
    client.disconnect().waitForCompletion(TIMEOUT_MS);
  }

  static void publish5(String server, int qos, String clientId, String topic, List<byte[]> payloads) throws Exception {
    var client = new org.eclipse.paho.mqttv5.client.MqttAsyncClient(server, clientId, null);
    MqttConnectionOptions options = new MqttConnectionOptions();
    options.setCleanStart(true);
    options.setKeepAliveInterval(KEEP_ALIVE_SECONDS);
    options.setSessionExpiryInterval(60L);
    options.setReceiveMaximum(20);
    options.setMaximumPacketSize(100_000L);
    options.setTopicAliasMaximum(5);
    options.setRequestProblemInfo(true);
    options.setRequestResponseInfo(true);
    options.setUserProperties(List.of(new UserProperty("colour", "blue"), new UserProperty("colour", "green")));
    options.setUserName("peer");
    options.setPassword("secret".getBytes());
    MqttMessage will = new MqttMessage("gone".getBytes());
    will.setQos(1);
    options.setWill(topic + "/will", will);
    MqttProperties willProperties = properties();
    willProperties.setWillDelayInterval(5L);
    options.setWillMessageProperties(willProperties);
    client.connect(options).waitForCompletion(TIMEOUT_MS);
    for (int start = 0; start < payloads.size(); start += AT_A_TIME) {
      var sent = new java.util.ArrayList<org.eclipse.paho.mqttv5.client.IMqttToken>();
      for (byte[] payload : payloads.subList(start, Math.min(start + AT_A_TIME, payloads.size()))) {
        sent.add(publishWhenThereIsRoom(client, topic, new MqttMessage(payload, qos, false, properties())));
      }
      for (var token : sent) {
        token.waitForCompletion(TIMEOUT_MS);
      }
    }
    client.disconnect().waitForCompletion(TIMEOUT_MS);
  }

  /** What is acknowledged is counted for a moment longer, on a busy machine for many messages at a time. */
  static org.eclipse.paho.mqttv5.client.IMqttToken publishWhenThereIsRoom(
      org.eclipse.paho.mqttv5.client.MqttAsyncClient client, String topic, MqttMessage message) throws Exception {
    long deadline = System.nanoTime() + TIMEOUT_MS * 1_000_000L;
    while (true) {
      try {
        return client.publish(topic, message);
      } catch (org.eclipse.paho.mqttv5.common.MqttException error) {
        boolean full = error.getReasonCode() == TOO_MANY_IN_PROGRESS;
        if (!full || System.nanoTime() > deadline) {
          throw error;
        }
        Thread.sleep(1);
      }
    }
  }

  static MqttProperties properties() {
    MqttProperties properties = new MqttProperties();
    properties.setMessageExpiryInterval(3_600L);
    properties.setContentType("application/octet-stream");
    properties.setResponseTopic("answers");
    properties.setCorrelationData(new byte[] {1, 2});
    properties.setUserProperties(List.of(new UserProperty("colour", "blue")));
    return properties;
  }
}
