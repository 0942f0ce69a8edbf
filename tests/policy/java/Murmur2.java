// Partitions as Kafka's own Java client chooses them: for each key in hex, one a line on standard input, its unsigned
// hash and its partition among as many as the line's number says, counted from 1.
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.HexFormat;
import org.apache.kafka.common.utils.Utils;

public class Murmur2 {
  public static void main(String[] arguments) throws Exception {
    var input = new BufferedReader(new InputStreamReader(System.in));
    var number = 0;
    for (String line; (line = input.readLine()) != null; ) {
      var hash = Utils.murmur2(HexFormat.of().parseHex(line));
      System.out.println(Integer.toUnsignedString(hash) + " " + Utils.toPositive(hash) % ++number);
    }
  }
}
